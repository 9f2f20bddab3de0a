"""What the fixtures `loaded` and `problems` are."""

from collections.abc import Callable

from config.models import Configuration

Load = Callable[..., Configuration]
Problems = Callable[..., list[str]]
