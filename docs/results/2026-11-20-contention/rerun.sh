#!/bin/sh
# Measures everything in this folder anew: sh rerun.sh OUT. About two hours on two cores.
set -e
out=${1:?the folder for the results}
naive="--family naive --size dags=5,runs=4,tasks=25 --out $out/naive --add"
redesigned="--family redesigned --size dags=15,runs=10,tasks=50 --arms redesigned,redesigned-sequential --out $out/redesigned --add"
beside="--family naive,redesigned --workload catch-up --size dags=10,intervals=40,tasks=2 --beside dag-processor --out $out/beside --add"

poc-bench contention $naive --mode timing --rtt 0,1,2.5,5 --repeat 3 --arms naive,naive-sequential,sync
poc-bench contention $naive --mode timing --rtt 0,1,2.5,5 --repeat 4 --arms naive,naive-sequential
poc-bench contention $naive --mode timing --rtt 0,2.5,5 --schedulers 1,2 --repeat 3 --arms naive,naive-sequential
poc-bench contention $naive --mode attribution,census --rtt 0,1,2.5,5
poc-bench contention $naive --mode attribution,census --rtt 0,2.5 --schedulers 2 --arms naive,naive-sequential,sync
poc-bench contention --family naive --size dags=5,runs=4,tasks=50 --out "$out/naive" --add --mode overhead --repeat 10

poc-bench contention $redesigned --mode timing --rtt 0,1,2.5,5 --schedulers 1,2 --repeat 3
poc-bench contention $redesigned --mode timing --rtt 0,1,2.5,5 --repeat 4
poc-bench contention $redesigned --mode lanes --rtt 0,5 --repeat 5
poc-bench contention $redesigned --mode attribution,census --rtt 0,1,2.5,5 --schedulers 1,2
poc-bench contention --family redesigned --size dags=20,runs=10,tasks=50 --out "$out/redesigned" --add --mode overhead --repeat 10

poc-bench contention $beside --mode attribution --rtt 0 --schedulers 1,2 --arms naive,naive-sequential,redesigned,redesigned-sequential,sync
poc-bench contention --family redesigned --workload catch-up --size dags=10,intervals=400,tasks=2 --beside dag-processor --out "$out/long-beside" --mode attribution --rtt 0 --arms redesigned,redesigned-sequential
poc-bench contention --family redesigned --size dags=30,runs=20,tasks=100 --out "$out/long-layers" --mode attribution --rtt 0 --arms redesigned,redesigned-sequential

python -m poc_bench.contention.alternation "$out/alternating.json" --runs 12
