"""AWS IoT Core: readings packed into MQTT messages within its limits, and device shadows."""

from connectors.targets.aws_iot.config import AwsIotConfig

__all__ = ["AwsIotConfig"]
