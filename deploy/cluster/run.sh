#!/bin/sh
# Starts three NATS servers, two gateways, HAProxy and a consumer on this machine, until Ctrl-C. It
# needs nats-server, haproxy, and a Python with fastsmtp-engine[server,admin,nats] (PYTHON).
#
#     deploy/cluster/run.sh DIRECTORY
#
# Below DIRECTORY are the messages of the servers, a log and the number of each process, and the
# mail, once the consumer has filed it. BASE is the first of 20 ports.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?name a directory}"
run=$(cd "$1" && pwd)
python=${PYTHON:-python3}
base=${BASE:-2520}

# On machines of your own: passwords of your own, from a file that only its user can read.
export SYSTEM_PASSWORD=${SYSTEM_PASSWORD:-system} OPERATOR_PASSWORD=${OPERATOR_PASSWORD:-operator}
export GATEWAY_PASSWORD=${GATEWAY_PASSWORD:-gateway} CONSUMER_PASSWORD=${CONSUMER_PASSWORD:-consumer}
export SMTP_PORT=$((base + 5)) G1_PORT=$((base + 6)) G2_PORT=$((base + 7))
export G1_ADMIN=$((base + 8)) G2_ADMIN=$((base + 9))
n1=$((base + 11)) n2=$((base + 12)) n3=$((base + 13))
servers="127.0.0.1:$n1,127.0.0.1:$n2,127.0.0.1:$n3"
routes="nats://127.0.0.1:$((base + 15)),nats://127.0.0.1:$((base + 16)),nats://127.0.0.1:$((base + 17))"

processes=""
start() {
    name=$1
    shift
    "$@" >>"$run/$name.log" 2>&1 &
    echo $! >"$run/$name.pid"
    processes="$processes $!"
}
# shellcheck disable=SC2086  # a list of numbers
trap 'trap - EXIT; kill $processes 2>/dev/null || true; wait' EXIT
trap 'exit 0' INT TERM

for number in 1 2 3; do
    start "n$number" nats-server -c "$here/nats.conf" -n "n$number" -a 127.0.0.1 -p $((base + 10 + number)) \
        --cluster_name mail --cluster "nats://127.0.0.1:$((base + 14 + number))" --routes "$routes" \
        -sd "$run/n$number"
done
"$python" "$here/make_stream.py" "nats://operator:$OPERATOR_PASSWORD@127.0.0.1:$n1"

export FASTSMTP_DELIVER="nats://gateway:$GATEWAY_PASSWORD@$servers"
start g1 "$python" -m fastsmtp serve --config "$here/gateway.toml" --listen "127.0.0.1:$G1_PORT" --admin "127.0.0.1:$G1_ADMIN"
start g2 "$python" -m fastsmtp serve --config "$here/gateway.toml" --listen "127.0.0.1:$G2_PORT" --admin "127.0.0.1:$G2_ADMIN"
start haproxy haproxy -db -f "$here/haproxy.cfg"
start consumer "$python" "$here/../../examples/nats_to_maildir.py" "nats://consumer:$CONSUMER_PASSWORD@$servers" MAIL "$run/mail"
echo "send mail to 127.0.0.1:$SMTP_PORT; it appears in $run/mail"
wait
