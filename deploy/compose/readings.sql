CREATE TABLE IF NOT EXISTS `main`.`plant`.`readings` (
  `gateway`       STRING NOT NULL COMMENT 'name of the gateway that read it; with shard and sequence the identity of the reading',
  `shard`         STRING NOT NULL COMMENT 'shard of the gateway\'s journal',
  `sequence`      BIGINT NOT NULL COMMENT 'number within gateway and shard',
  `date`          DATE NOT NULL COMMENT 'UTC date of source_time, or of received_time; the partition column',
  `source_time`   TIMESTAMP COMMENT 'when the device says it measured, UTC, µs; null when it does not say',
  `received_time` TIMESTAMP NOT NULL COMMENT 'when the gateway received it, UTC, µs',
  `source`        STRING COMMENT 'name of the source in the configuration',
  `protocol`      STRING COMMENT 'protocol of the source: opcua, mqtt, sparkplug, modbus, api, gateway',
  `device_id`     STRING COMMENT 'the device as its protocol names it (server, edge node, unit)',
  `address`       STRING COMMENT 'the tag as its protocol names it (node id, topic, register)',
  `tag_name`      STRING COMMENT 'the tag\'s name',
  `unit`          STRING COMMENT 'engineering unit of the value',
  `metadata`      STRING COMMENT 'JSON object of the source\'s and the tag\'s metadata',
  `path`          STRING COMMENT 'ISA-95 path',
  `site`          STRING COMMENT 'ISA-95 site',
  `area`          STRING COMMENT 'ISA-95 area',
  `line`          STRING COMMENT 'ISA-95 line (work center)',
  `equipment`     STRING COMMENT 'ISA-95 equipment (work unit)',
  `signal_type`   STRING COMMENT 'kind of signal: temperature, pressure, speed …',
  `type`          STRING NOT NULL COMMENT 'NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES or JSON',
  `value`         DOUBLE COMMENT 'the value as a number (exact for DOUBLE; booleans 0 and 1), null where it is none',
  `value_int`     BIGINT COMMENT 'the exact value of an INT64, a BOOLEAN (0, 1) or a UINT64 (its bit pattern)',
  `value_text`    STRING COMMENT 'the value of a TEXT, or the JSON of an array or structure',
  `value_bytes`   BINARY COMMENT 'the value of BYTES',
  `quality`       STRING NOT NULL COMMENT 'GOOD, UNCERTAIN, BAD, STALE or ALARM',
  `status`        BIGINT COMMENT 'the protocol\'s own status code',
  `flags`         INT NOT NULL COMMENT 'bits: 1 retained, 2 historical, 4 re-sent, 8 derived, 16 gap',
  `properties`    STRING COMMENT 'JSON object of what the protocol sent beside the value',
  `priority`      INT NOT NULL COMMENT 'priority given by the routing rules, larger is more urgent'
)
USING DELTA
PARTITIONED BY (`date`)
COMMENT 'Readings from Bifrost. Delivery is at least once: the view with the suffix _once shows each once.';

CREATE OR REPLACE VIEW `main`.`plant`.`readings_once`
COMMENT 'Each reading of main.plant.readings once, by its identity gateway, shard, sequence.'
AS SELECT * FROM `main`.`plant`.`readings`
QUALIFY ROW_NUMBER() OVER (PARTITION BY `date`, gateway, shard, sequence ORDER BY received_time) = 1;

CREATE OR REPLACE VIEW `main`.`plant`.`readings_tags`
COMMENT 'Versions of the tags of main.plant.readings; valid_to is null for the one in force.'
AS SELECT gateway, source, device_id, address, tag_name, protocol, unit, metadata, path, site, area, line, equipment, signal_type, valid_from, LEAD(valid_from) OVER (PARTITION BY gateway, source, device_id, address, tag_name ORDER BY valid_from) AS valid_to
FROM (SELECT gateway, source, device_id, address, tag_name, protocol, unit, metadata, path, site, area, line, equipment, signal_type, received_time AS valid_from, to_json(struct(protocol, unit, metadata, path, site, area, line, equipment, signal_type)) AS known,
        LAG(to_json(struct(protocol, unit, metadata, path, site, area, line, equipment, signal_type))) OVER (PARTITION BY gateway, source, device_id, address, tag_name ORDER BY received_time) AS known_before
      FROM `main`.`plant`.`readings`) AS seen
WHERE known_before IS NULL OR known <> known_before;

CREATE TABLE IF NOT EXISTS `main`.`plant`.`readings_merged` LIKE `main`.`plant`.`readings`;

MERGE INTO `main`.`plant`.`readings_merged` AS kept
USING (
  SELECT * FROM `main`.`plant`.`readings`
  WHERE received_time >= current_timestamp() - INTERVAL 3 DAYS
  QUALIFY ROW_NUMBER() OVER (PARTITION BY `date`, gateway, shard, sequence ORDER BY received_time) = 1
) AS come
ON kept.`date` = come.`date` AND kept.gateway = come.gateway AND kept.shard = come.shard AND kept.sequence = come.sequence
WHEN NOT MATCHED THEN INSERT *;

