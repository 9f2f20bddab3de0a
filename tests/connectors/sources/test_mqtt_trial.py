from connectors.sources.mqtt import MqttConfig


def test_a_trial_uses_a_session_of_its_own_that_the_broker_forgets() -> None:
    config = MqttConfig(name="line1", endpoint="mqtt://127.0.0.1", client_id="gateway-line1")
    trial = config.trial()
    assert trial.clean_session
    assert trial.client_id not in (None, "gateway-line1")
    assert trial.client_id != config.trial().client_id
    assert config.client_id == "gateway-line1"
