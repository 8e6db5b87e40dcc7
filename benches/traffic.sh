# What passes through a container's network, not how fast one starts: sourced by scripts/bench in its namespaces, which has set
# `scratch`, `minirun`, `version`, `rounds` and `machine`. All that is compared is measured in turns, in one order and then the other.

samples=$scratch/samples
: >"$samples"
started=()
sample() { # WHAT HOW VALUE
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$samples"
}
in_network() { nsenter --net="$1" "${@:2}"; }
background() { # COMMAND...
  "$@" </dev/null >>"$scratch/servers" 2>&1 &
  started+=($!)
}
answers() { # NETWORK ADDRESS PORT: waits until somebody listens there
  for _ in $(seq 100); do
    ! in_network "$1" busybox nc -w 1 "$2" "$3" </dev/null >/dev/null 2>&1 || return 0
    sleep 0.05
  done
  echo "bench: nobody answers at $2 port $3" >&2
  exit 1
}
finish() {
  kill "${started[@]}" 2>/dev/null || true
  wait "${started[@]}" 2>/dev/null || true
}
container() { # HOST NAME OPTION...: prints the network of a new container of that host
  in_network "$1" "$minirun" run -d --name "$2" "${@:3}" busybox sleep 100000 >/dev/null 2>>"$scratch/errors" || {
    tail -n 3 "$scratch/errors" >&2
    exit 1
  }
  "$minirun" inspect --format '/proc/{{.State.Pid}}/ns/net' "$2"
}
address() { "$minirun" inspect --format '{{.NetworkSettings.IPAddress}}' "$1"; }

# For each kind of traffic: the median of each way, and the median of what a round says of it and of each base.
table() { # FORMAT OF A FIGURE, BASE...
  local IFS=,
  awk -F '\t' -v form="$1" -v bases="${*:2}" '
    function middle(all, n,   i, j, t) {
      for (i = 2; i <= n; i++) for (j = i; j > 1 && all[j - 1] > all[j]; j--) { t = all[j]; all[j] = all[j - 1]; all[j - 1] = t }
      return n % 2 ? all[(n + 1) / 2] : (all[n / 2] + all[n / 2 + 1]) / 2
    }
    !($1 in kinds) { kinds[$1]; kind[++count] = $1 }
    !($2 in ways) { ways[$2]; way[++number] = $2 }
    { value[$1, $2, ++n[$1, $2]] = $3 }
    END {
      parts = split(bases, base, ",")
      for (k = 1; k <= count; k++)
        for (w = 1; w <= number; w++) {
          runs = n[kind[k], way[w]]
          for (i = 1; i <= runs; i++) all[i] = value[kind[k], way[w], i]
          printf "| %s | %s | " form " |", kind[k], way[w], middle(all, runs)
          for (b = 1; b <= parts; b++) {
            for (i = 1; i <= runs; i++) {
              to = value[kind[k], base[b], i]
              ratio[i] = to ? value[kind[k], way[w], i] / to : 0
            }
            printf " %.3f |", middle(ratio, runs)
          }
          printf " %d |\n", runs
        }
    }' "$samples"
}

by_hand() { # HOST
  local n
  ip netns add "$1"
  ip -n "$1" -batch - <<'END'
link set lo up
link add bridge0 mtu 1400 type bridge
addr add 172.29.0.1/24 dev bridge0
link set bridge0 up
END
  for n in 2 3; do
    ip netns add "$1$n"
    ip -n "$1" link add "port$n" mtu 1400 master bridge0 type veth peer name eth0 mtu 1400 netns "$1$n"
    ip -n "$1" link set "port$n" up
    ip -n "$1$n" -batch - <<END
link set lo up
addr add 172.29.0.$n/24 dev eth0
link set eth0 up
route add default via 172.29.0.1
END
  done
}

throughput() {
  # Short, and often in turns: a machine is not the same for long.
  local megabytes=600
  # Other hosts, on which minirun has never been, with the same made by hand: two namespaces at a bridge; and with the one rule
  # more without which they reach nothing outside.
  by_hand hand
  by_hand nat
  in_network /run/netns/nat nft -f - <<'END'
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    ip saddr 172.29.0.0/24 oifname != "bridge0" masquerade
  }
}
END
  container /proc/self/ns/net one >"$scratch/one"
  container /proc/self/ns/net two >"$scratch/two"
  local one two gateway host
  one=$(<"$scratch/one") two=$(<"$scratch/two")
  gateway=$("$minirun" network inspect --format '{{.Gateway}}' bridge)
  for network in "$one" /proc/self/ns/net /run/netns/{hand,nat}{,2}; do
    background in_network "$network" iperf3 -s
  done
  iperf() { # NETWORK ADDRESS: prints bits a second that arrived
    in_network "$1" iperf3 -J -n "${megabytes}M" -c "$2" | awk '/"sum_received"/ { there = 1 } there && /"bits_per_second"/ { sub(",", "", $2); print $2; exit }'
  }
  answers "$two" "$(address one)" 5201
  answers "$two" "$gateway" 5201
  for host in hand nat; do
    answers "/run/netns/${host}3" 172.29.0.2 5201
    answers "/run/netns/${host}3" 172.29.0.1 5201
  done
  # Where the bridge asks the rules for each frame (br_netfilter, which Docker loads), and where it does not.
  asks() { # 0 OR 1
    for host in /proc/self/ns/net /run/netns/hand /run/netns/nat; do
      in_network "$host" sysctl -qw "net.bridge.bridge-nf-call-iptables=$1" 2>/dev/null || [ "$1" = 0 ]
    done
  }
  between() { # WHAT ADDRESS-BY-HAND ADDRESS
    ways+=("$1|by hand|/run/netns/hand3|$2" "$1|by hand with NAT|/run/netns/nat3|$2" "$1|minirun|$two|$3")
  }
  local ways=()
  asks 0
  between 'container to container' 172.29.0.2 "$(address one)"
  between 'container to host' 172.29.0.1 "$gateway"
  turns 0.35 iperf "${ways[@]}"
  if asks 1; then
    ways=()
    between 'container to container, br_netfilter' 172.29.0.2 "$(address one)"
    turns 0.35 iperf "${ways[@]}"
  fi
  echo "$(machine), iperf3, $megabytes MB each, $rounds interleaved rounds, $version"
  echo
  echo '| one TCP stream | | Gbit/s | x without NAT | x with NAT | runs |'
  echo '|---|---|---:|---:|---:|---:|'
  awk -F '\t' -v OFS='\t' '{ $3 /= 1e9; print }' "$samples" >"$samples.gbit"
  mv "$samples.gbit" "$samples"
  table %.1f 'by hand' 'by hand with NAT'
}

connections() {
  local ways=() options i
  # Three hosts, each with its LAN: what is published on one is no part of the others' tables.
  for how in '1 port' '1,000 ports' '1,000 in a range'; do
    local host="host${how//[ ,]/}" port=20500 inner=7000
    options=()
    case $how in
      '1 port') options=(-p 0.0.0.0:20500:7000) ;;
      '1,000 ports') for ((i = 20000; i < 21000; i++)); do options+=(-p "0.0.0.0:$i:7000"); done ;;
      *) options=(-p 0.0.0.0:20000-20999:20000-20999) inner=20500 ;;
    esac
    ip netns add "$host"
    ip netns add "$host-lan"
    ip -n "$host" -batch - <<END
link set lo up
link add eth0 type veth peer name host0 netns $host-lan
addr add 192.0.2.2/24 dev eth0
link set eth0 up
END
    ip -n "$host-lan" -batch - <<'END'
link set lo up
addr add 192.0.2.1/24 dev host0
link set host0 up
END
    ip -n "$host" route add default via 192.0.2.1
    container "/run/netns/$host" "$host" "${options[@]}" >"$scratch/network"
    background in_network "$(<"$scratch/network")" "$scratch/connections" serve $inner
    # What was reset is forgotten at once, before the next round, in the host and in the container.
    for network in "/run/netns/$host" "$(<"$scratch/network")"; do
      in_network "$network" sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1
    done
    answers "/run/netns/$host" 127.0.0.1 $port
    answers "/run/netns/$host-lan" 192.0.2.2 $port
    ways+=("host's loopback|$how|/run/netns/$host|127.0.0.1" "LAN|$how|/run/netns/$host-lan|192.0.2.2")
  done
  connect() { in_network "$1" "$scratch/connections" ask "$2" 20500 1000; }
  turns 1 connect "${ways[@]}"
  echo "$(machine), connections one after the other, 1 s each, $rounds interleaved rounds, $version"
  echo
  echo '| connections from | published | a second | x 1 port | runs |'
  echo '|---|---|---:|---:|---:|'
  sort -s -t $'\t' -k 1,1 "$samples" >"$samples.sorted"
  mv "$samples.sorted" "$samples"
  table %.0f '1 port'
}

turns() { # SECONDS COMMAND "WHAT|HOW|NETWORK|ADDRESS"...
  local seconds=$1 command=$2 round i what how network at value
  local ways=("${@:3}")
  local count=${#ways[@]}
  awk -v rounds="$rounds" -v count="$count" -v s="$seconds" 'BEGIN { printf "bench: %d s\n", rounds * count * s }' >&2
  # The round -1 is to warm up.
  for ((round = -1; round < rounds; round++)); do
    for ((i = 0; i < count; i++)); do
      IFS='|' read -r what how network at <<<"${ways[round % 2 ? count - 1 - i : i]}"
      value=$("$command" "$network" "$at")
      [ -n "$value" ] || {
        echo "bench: $what, $how: no figure" >&2
        exit 1
      }
      [ $round -lt 0 ] || sample "$what" "$how" "$value"
    done
    printf '\rround %d of %d ' $((round + 1)) "$rounds" >&2
  done
  printf '\r                      \r' >&2
}
