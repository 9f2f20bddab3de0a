"""Modbus: registers, coils and discrete inputs of many units on one line, read in blocks.

* `config`, `register`, `tables`, `address`, `endpoint`: what a user writes, and the values that it means,
* `datatypes`, `plan`: how values are written, and which addresses are asked for together (pure),
* `protocol`: requests, replies and frames as bytes (pure),
* `decode`: the bytes of blocks to columns (pure),
* `schedule`: when what is read (pure),
* `line`, `serial_line`: the connection,
* `units`: what is known of each unit and block,
* `outlet`: what is told,
* `reader`: what is asked when, and what is done when an answer is not as it should be,
* `profile`, `plausible`, `draft`: what can be found out about a device that nobody has described.
"""

from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.register import RegisterConfig

__all__ = ["ModbusConfig", "RegisterConfig"]
