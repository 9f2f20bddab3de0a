"""Azure IoT Hub: readings packed into device-to-cloud messages within its limits, and reported twin properties."""

from connectors.targets.azure_iot_hub.config import AzureIotHubConfig

__all__ = ["AzureIotHubConfig"]
