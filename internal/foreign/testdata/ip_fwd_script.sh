#!/bin/bash
# Runs at boot on each forwarder; see the runbook.
set -euo pipefail

DOMAIN=corp.example.com
IFACE="eth0"   # the only one
export LISTEN=1433
HERE=$(dirname "$0")

apt-get update && apt-get install -y iptables dnsutils
sysctl -w net.ipv4.ip_forward=1
echo 1 > /proc/sys/net/ipv4/ip_forward
chmod +x ./ip_fwd.sh; echo "starting"

# Databases
sudo ./ip_fwd.sh -i $IFACE -f ${LISTEN} -a "sqlserver1.$DOMAIN" -b 1433
/opt/az-ip-fwd/ip_fwd.sh   -b 3306   -a 10.79.0.82   -f3306 -i eth0 > /var/log/fwd.log 2>&1
bash ip_fwd.sh \
    -i "$IFACE" \
    -f 5432 \
    -a pg.corp.example.com \
    -b 5432 || true
if [ -f /etc/extra ]; then
    sudo -E bash /opt/az-ip-fwd/ip_fwd.sh -i eth1 -f 1433 -a sqlserver2.corp.example.com -b 1433; ./ip_fwd.sh -i eth0 -f 1433 -a sqlserver3.corp.example.com -b 1433
fi
mkdir -p /var/lib/forwarder
iptables -A INPUT -p tcp --dport 22 -j ACCEPT
iptables-save > /etc/iptables/rules.v4
