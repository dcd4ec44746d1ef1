#!/bin/sh
# A launch as one writes it by hand: four calls per host, one host after the other.
# usage: shell_loop.sh SSH_CONFIG FOLDER_OF_FILES WORKDIR_ROOT PYTHON SECONDS HOST...
set -eu
config=$1 files=$2 root=$3 python=$4 seconds=$5
shift 5
sums=$(cd "$files" && sha256sum ./*)
probe='import os, sys; print(sys.version_info[:2], os.statvfs(".").f_bavail)'
for host; do
    folder=$root/$host
    ssh -n -F "$config" "$host" "mkdir -p '$folder' && cd '$folder' && $python -c '$probe'"
    scp -q -F "$config" "$files"/* "$host:$folder/"
    printf '%s\n' "$sums" | ssh -F "$config" "$host" "cd '$folder' && sha256sum --quiet -c -"
    ssh -n -F "$config" "$host" "cd '$folder' && {
        setsid nohup sleep $seconds >log 2>&1 </dev/null &
        echo \$! >pid; kill -0 \$!; }"
done
