"""One computation on many processes: applied from outside to a model that is written for one device."""
