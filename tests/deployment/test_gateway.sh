#!/usr/bin/env bash
# Runs docker-compose.yaml and looks at it in six steps: --help.
set -euo pipefail

usage() {
    cat <<'END'
tests/deployment/test_gateway.sh [--help]

Runs docker-compose.yaml as a project of its own, looks at it in six steps, and takes it away again:
prerequisites, image, start, health, discovery, metrics. Ends with 0 when all hold, with 1 at the first that does not.

Settings are taken from the environment:

  ENGINE            command line of docker or podman             (docker where its daemon answers, else podman)
  COMPOSE           command line that reads the compose file     ($ENGINE compose with docker, else podman-compose)
  RUN_ARGS          more arguments of podman-compose's `podman run`
  SERVICES          what is started                              (simulator mosquitto gateway zerobus prometheus grafana)
  BIFROST_IMAGE     the image; `make image` builds it as bifrost when it is missing       (bifrost)
  MOSQUITTO_IMAGE, PROMETHEUS_IMAGE, GRAFANA_IMAGE               (those of docker-compose.yaml)
  GATEWAY_PORT, PROMETHEUS_PORT, GRAFANA_PORT  on 127.0.0.1      (18080, 19090, 13000)
  PLANT_SUBNET      network of the containers, no other's        (172.28.77.16/28)
  PATIENCE          seconds that a step may take                 (180)
  KEEP              1: what was started goes on                  (0)
END
}

case "${1:-}" in
"") ;;
-h | --help) usage && exit 0 ;;
*) usage >&2 && exit 2 ;;
esac

cd "$(dirname "$0")/../.."
PROJECT=bifrost-gateway-test
PATIENCE=${PATIENCE:-180}
export GATEWAY_PORT=${GATEWAY_PORT:-18080} PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090} GRAFANA_PORT=${GRAFANA_PORT:-13000}
export PLANT_SUBNET=${PLANT_SUBNET:-172.28.77.16/28} BIFROST_IMAGE=${BIFROST_IMAGE:-bifrost}
read -r -a services <<<"${SERVICES:-simulator mosquitto gateway zerobus prometheus grafana}"
scratch=$(mktemp -d)
started=""

say() { printf '   ok    %s\n' "$*"; }
fail() {
    printf '   FAIL  %s\n' "$*" >&2
    exit 1
}
step() { printf '\n%s  %s\n' "$1" "$2"; }

# until WHAT COMMAND...: runs it once a second until it succeeds
until_holds() {
    local what=$1 ends=$((SECONDS + PATIENCE))
    shift
    until "$@" >"$scratch/last" 2>&1; do
        [ "$SECONDS" -lt "$ends" ] || fail "$what: not within $PATIENCE s; last said: $(tail -n 3 "$scratch/last")"
        sleep 1
    done
    say "$what"
}

has() { [[ " ${services[*]} " == *" $1 "* ]]; }

container() {
    "${engine[@]}" ps --all --quiet --filter "label=com.docker.compose.project=$PROJECT" --filter "label=com.docker.compose.service=$1"
}

inside() {
    local service=$1
    shift
    "${engine[@]}" exec "$(container "$service")" "$@"
}

about() { "${engine[@]}" inspect --type container --format "$2" "$(container "$1")"; }

get() { curl --silent --show-error --fail --max-time 10 "$@"; }

cleaned_up() {
    local code=$?
    trap - EXIT
    if [ "$code" -ne 0 ] && [ -n "$started" ]; then
        for service in "${services[@]}"; do
            printf '\n--- last lines of %s\n' "$service" >&2
            "${engine[@]}" logs --tail 12 "$(container "$service")" >&2 2>&1 || true
        done
    fi
    if [ -n "$started" ]; then
        if [ "${KEEP:-0}" = 1 ]; then
            printf '\nkept: gateway on http://127.0.0.1:%s; to be taken away, with what deploy/compose/secrets.sh makes:\n  %s\n' \
                "$GATEWAY_PORT" "$reader -p $PROJECT down --volumes"
        else
            "${compose[@]}" down --volumes >"$scratch/down" 2>&1 || { tail -n 3 "$scratch/down" >&2 && code=1; }
        fi
    fi
    rm -rf "$scratch"
    if [ "$code" -eq 0 ]; then printf '\nall six steps hold, after %s s\n' "$SECONDS"; else printf '\nfailed\n' >&2; fi
    exit "$code"
}
trap cleaned_up EXIT
trap 'exit 130' INT TERM

# ---------------------------------------------------------------------- the steps

prerequisites() {
    command -v curl >/dev/null || fail "curl is missing"
    if [ -n "${ENGINE:-}" ]; then
        read -r -a engine <<<"$ENGINE"
    elif docker info >/dev/null 2>&1; then
        engine=(docker)
    elif command -v podman >/dev/null; then
        engine=(podman)
    else
        fail "neither a docker whose daemon answers nor podman is here; on a Mac: colima start"
    fi
    "${engine[@]}" info >"$scratch/info" 2>&1 || fail "${engine[*]} does not answer: $(tail -n 1 "$scratch/info")"
    podman=""
    case "$("${engine[@]}" --version)" in *podman*) podman=1 ;; esac
    say "$("${engine[@]}" --version)"

    if [ -n "${COMPOSE:-}" ]; then
        read -r -a compose <<<"$COMPOSE"
    elif [ -z "$podman" ]; then
        compose=("${engine[@]}" compose)
    else
        compose=(podman-compose)
    fi
    reader=${compose[*]}
    "${compose[@]}" version >"$scratch/version" 2>&1 ||
        fail "${compose[*]} does not run: $(tail -n 1 "$scratch/version"); install Docker's compose plugin, or: pip install podman-compose"
    if grep -q podman-compose "$scratch/version"; then
        # it takes one word for podman, which may have arguments here
        printf '#!/bin/sh\nexec %s "$@"\n' "${engine[*]}" >"$scratch/podman"
        chmod +x "$scratch/podman"
        compose+=(--podman-path "$scratch/podman" --in-pod false)
        [ -z "${RUN_ARGS:-}" ] || compose+=("--podman-run-args=$RUN_ARGS")
    fi
    say "$(grep -m 1 -i compose "$scratch/version")"

    # of this run alone; the environment goes before .env
    GRAFANA_ADMIN_PASSWORD=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
    ZEROBUS_CLIENT_SECRET=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
    export GRAFANA_ADMIN_PASSWORD ZEROBUS_CLIENT_SECRET
    compose+=(-f docker-compose.yaml -p "$PROJECT")
    "${compose[@]}" config >"$scratch/config" 2>"$scratch/wrong" || fail "docker-compose.yaml: $(tail -n 3 "$scratch/wrong")"
    say "docker-compose.yaml is read; to be started: ${services[*]}"
    for port in "$GATEWAY_PORT" "$PROMETHEUS_PORT" "$GRAFANA_PORT"; do
        if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            fail "somebody listens on 127.0.0.1:$port; set GATEWAY_PORT, PROMETHEUS_PORT, GRAFANA_PORT"
        fi
    done
}

image() {
    if ! "${engine[@]}" image inspect "$BIFROST_IMAGE" >/dev/null 2>&1; then
        [ "$BIFROST_IMAGE" = bifrost ] || fail "no image $BIFROST_IMAGE"
        say "no image bifrost: make image"
        make image
    fi
    user=$("${engine[@]}" image inspect --format '{{.Config.User}}' "$BIFROST_IMAGE")
    [ "$user" = 1000:1000 ] || fail "$BIFROST_IMAGE would run as ${user:-root}"
    size=$("${engine[@]}" image inspect --format '{{.Size}}' "$BIFROST_IMAGE")
    say "$BIFROST_IMAGE: $((size / 1000000)) MB, user $user"
    say "$("${engine[@]}" run --rm --no-healthcheck --network none ${RUN_ARGS:+$RUN_ARGS} "$BIFROST_IMAGE" --version)"
}

runs() { [ "$(about "$1" '{{.State.Status}}')" = running ]; }

start() {
    started=1
    "${compose[@]}" up --detach "${services[@]}" >"$scratch/up" 2>&1 || fail "up: $(tail -n 5 "$scratch/up")"
    for service in "${services[@]}"; do
        [ -n "$(container "$service")" ] || fail "$service was not made: $(tail -n 5 "$scratch/up")"
        until_holds "$service runs" runs "$service"
    done
    for service in simulator gateway zerobus; do
        has "$service" || continue
        [ "$(about "$service" '{{.HostConfig.ReadonlyRootfs}}')" = true ] || fail "the root file system of $service can be written"
        status=$(inside "$service" cat /proc/1/status)
        for wanted in "Uid:	1000	1000" "CapEff:	0000000000000000" "CapBnd:	0000000000000000" "NoNewPrivs:	1"; do
            grep -q "^$wanted" <<<"$status" || fail "$service: $(grep "^${wanted%%:*}" <<<"$status"), not $wanted"
        done
        say "$service: user 1000, no capability, read-only root"
    done
}

healthy() {
    if [ -n "$podman" ]; then
        # asked here, since podman leaves asking to systemd
        "${engine[@]}" healthcheck run "$(container "$1")"
    else
        [ "$(about "$1" '{{.State.Health.Status}}')" = healthy ] || { about "$1" '{{json .State.Health}}' && return 1; }
    fi
}

health() {
    for service in "${services[@]}"; do
        until_holds "$service is healthy" healthy "$service"
    done
    until_holds "the gateway is ready, on 127.0.0.1:$GATEWAY_PORT" get "http://127.0.0.1:$GATEWAY_PORT/readyz"
    code=$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10 "http://127.0.0.1:$GATEWAY_PORT/api/status")
    [ "$code" = 401 ] || fail "/api/status is answered with $code to who is not logged in"
    say "/api/status wants a login"
}

found_all() {
    inside gateway bifrost discover list --json >"$scratch/found" || return 1
    for protocol in opcua modbus ${mosquitto:+mqtt}; do
        grep -Eq "\"protocol\": ?\"$protocol\"" "$scratch/found" || { echo "no server of $protocol" && return 1; }
    done
}

discovery() {
    mosquitto=""
    has mosquitto && mosquitto=1
    inside gateway bifrost discover --json >"$scratch/scan" 2>"$scratch/wrong" || fail "$(tail -n 3 "$scratch/wrong")"
    found_all >"$scratch/missing" || fail "$(cat "$scratch/missing")"
    say "in $PLANT_SUBNET: $(grep -Eo '"id": ?"[a-z0-9-]+"' "$scratch/found" | cut -d'"' -f4 | sort -u | tr '\n' ' ')"
}

# value NAME LABELS: sum of what the gateway's /metrics says of a metric, for the series that have the labels
value() {
    get "http://127.0.0.1:$GATEWAY_PORT/metrics" >"$scratch/metrics" || return 1
    awk -v name="$1" -v labels="$2" 'index($0, name "{") == 1 && index($0, labels) {sum += $NF} END {printf "%d\n", sum}' "$scratch/metrics"
}

above() {
    local now
    now=$(value "$2" "$3") || return 1
    echo "$2{$3} is $now"
    [ "$now" -gt "$1" ]
}

rows() {
    inside zerobus python3 -I -c \
        "import json, urllib.request as r; print(json.load(r.urlopen('http://127.0.0.1:8766/tables/main.plant.readings/count'))['count'])"
}

more_rows_than() { [ "$(rows)" -gt "$1" ]; }

asked() { get --get --data-urlencode "query=$1" "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query"; }

has_series() {
    asked "$1" | tee "$scratch/series"
    grep -q '"value":\[' "$scratch/series"
}

grafana_get() { get --user "admin:$1" "http://127.0.0.1:$GRAFANA_PORT$2"; }

stopped() { "${engine[@]}" stop -t 20 "$(container "$1")" >"$scratch/stop" 2>&1 || fail "$1 does not stop: $(tail -n 3 "$scratch/stop")"; }

metrics() {
    for source in opcua1 mqtt1 sparkplug1 modbus1; do
        until_holds "readings come from $source" above 20 bifrost_bridge_records_received_total "source=\"$source\""
    done
    for target in lake databricks; do
        until_holds "readings are delivered to $target" above 100 bifrost_cloud_data_points_sent_total "connector=\"$target\""
    done
    until_holds "the emulator has rows: $(rows)" more_rows_than 0
    until_holds "and gets more" more_rows_than "$(rows)"
    if has prometheus; then
        until_holds "Prometheus scrapes the gateway" has_series 'up{job="bifrost"} == 1'
        until_holds "and has what it reads" has_series 'sum(bifrost_bridge_records_received_total) > 0'
        rules=$(get "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/rules" | grep -o '"type":"alerting"' | wc -l)
        [ "$rules" -eq "$(grep -c '^ *- alert:' k8s/observability/alerts.yaml)" ] || fail "Prometheus has $rules alert rules"
        say "Prometheus has $((rules)) alert rules"
    fi
    if has grafana; then
        until_holds "Grafana has the dashboards" grafana_get "$GRAFANA_ADMIN_PASSWORD" /api/dashboards/uid/bifrost-overview
        until_holds "Grafana asks Prometheus" grafana_get "$GRAFANA_ADMIN_PASSWORD" /api/datasources/uid/bifrost-prometheus/health
        if grafana_get admin /api/org >/dev/null 2>&1; then fail "Grafana takes admin/admin"; fi
        say "Grafana refuses the password that it comes with"
    fi
    stopped simulator
    until_holds "the account adds up" inside gateway bifrost ledger --json
    stopped gateway
    code=$(about gateway '{{.State.ExitCode}}')
    [ "$code" = 0 ] || fail "the gateway ended with $code"
    say "the gateway drains and ends with 0"
    if [ "${KEEP:-0}" = 1 ]; then
        "${engine[@]}" start "$(container simulator)" "$(container gateway)" >/dev/null
    fi
}

step 1 prerequisites && prerequisites
step 2 image && image
step 3 start && start
step 4 health && health
step 5 discovery && discovery
step 6 metrics && metrics
