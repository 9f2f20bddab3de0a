# Debian's mosquitto and Prometheus, laid out as the public images are, for machines that reach no registry of images.
#
#   podman build --target mosquitto --build-arg BASE_IMAGE=… -f tests/deployment/stand-ins.Dockerfile -t bifrost-mosquitto tests/deployment

ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS mosquitto
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mosquitto mosquitto-clients >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /mosquitto/config /mosquitto/data \
 && chown -R 1883:1883 /mosquitto
VOLUME /mosquitto/data
CMD ["mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]

FROM ${BASE_IMAGE} AS prometheus
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends prometheus wget >/dev/null \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /prometheus \
 && chown 65534:65534 /prometheus
USER 65534:65534
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
