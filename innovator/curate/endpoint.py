"""A language model behind an OpenAI-compatible address."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from innovator.models.spec import Spec

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError


class Absent(ValueError):
    """Nobody is there, or one who knows neither us nor the model: asking again about something else is in vain."""


@dataclass(frozen=True, kw_only=True)
class Endpoint(Spec):
    """Where the model is. url: up to and with `/v1`; key_from: the environment variable that holds the key, if any.

    timeout: seconds for one answer; tries: how often a request that fails is made before it counts as failed.
    """

    url: str
    model: str
    key_from: str | None = None
    temperature: float = 0.0
    timeout: float = 120.0
    tries: int = 3

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}: give the address of a server, such as http://localhost:8000/v1")
        if self.tries < 1 or self.timeout <= 0:
            raise ValueError(
                f"tries is {self.tries} and timeout {self.timeout}: give at least one try and some seconds"
            )

    def ask(self, system: str, user: str) -> str:
        """The model's answer; ValueError if there is none: a refusal, no answer in time, or one without text.

        Absent if there will be none to any question: no server, a key that it does not take, a model that it lacks.
        """
        import openai  # which takes a second

        try:
            answer = self._client().chat.completions.create(
                model=self.model,
                temperature=self.temperature,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
            )
        except openai.OpenAIError as error:
            raise _sort_of(error)(f"{self.model} at {self.url} gives no answer: {error}") from error
        text = answer.choices[0].message.content if answer.choices else None
        if not text:
            raise ValueError(f"{self.model} at {self.url} gives an answer without text")
        return text

    def _client(self) -> OpenAI:
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key=self._key(), timeout=self.timeout, max_retries=self.tries - 1)

    def _key(self) -> str:
        if self.key_from is None:
            return "none"  # the client wants one even where the server does not
        if not os.environ.get(self.key_from):
            raise Absent(f"key_from: set the environment variable {self.key_from} to the key of {self.url}")
        return os.environ[self.key_from]


def _sort_of(error: OpenAIError) -> type[ValueError]:
    import openai

    if isinstance(error, openai.APITimeoutError):  # which is a connection error to the client
        return ValueError
    lasting = openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError
    return Absent if isinstance(error, lasting) else ValueError
