"""Modbus: registers, coils and discrete inputs of many units on one line, read in blocks.

* `config`: what a user writes, and the values that it means,
* `plan`: which addresses are asked for together (pure),
* `protocol`: requests, replies and frames as bytes (pure),
* `decode`: the bytes of a block to columns (pure),
* `line`: the connection,
* `units`: what is known of each unit and block,
* `reader`: the schedule, and what is done when an answer is not as it should be.
"""

from connectors.sources.modbus.config import ModbusConfig, RegisterConfig

__all__ = ["ModbusConfig", "RegisterConfig"]
