"""``bifrost convert``: what other gateways are configured with, as our configuration.

`kinds` tells whose a file is, `telegraf`, `kepware` and `thingsboard` turn it into a `draft`, `checked` makes sure that the
draft loads, `written` makes YAML of it. None of them opens a file or a socket, but `checked` for a moment's file of its own.
"""
