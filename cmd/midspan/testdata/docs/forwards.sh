sudo ./ip_fwd.sh -i eth0 -f 9092 -a kafka1.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9093 -a kafka2.corp.example.com -b 9092
sudo ./ip_fwd.sh -i eth0 -f 9094 -a kafka3.corp.example.com -b 9092
