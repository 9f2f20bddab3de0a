"""Finding servers of OPC UA, MQTT and Modbus in networks that the configuration lists.

What may be reached: ``guard.py``; what a scan covers: ``coverage.py`` (both pure). One scan: ``scan.py``, the only place that
opens a connection, with what is asked there in ``opcua.py``, ``mqtt.py`` and ``modbus.py``. What became of it: ``servers.py``
(new, known, changed, gone), ``draft.py`` (a source to paste), ``store.py``. Who runs it all: ``desk.py``.
"""
