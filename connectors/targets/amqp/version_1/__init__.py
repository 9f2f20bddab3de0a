"""AMQP 1.0, the ISO standard: another protocol than 0.9.1, of which it has the name and the port."""
