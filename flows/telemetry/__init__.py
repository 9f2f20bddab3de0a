"""What the gateway says of itself, sent to where many gateways are looked at; nothing here is imported unless that is configured."""
