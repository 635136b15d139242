#!/bin/sh
# Link the first ptxas of CUDA 13 or later to the path that is given; fails where there is none.
set -eu
target=$1
for found in /opt/spark-speech/lib/python3.*/site-packages/torch/bin/ptxas /usr/local/cuda/bin/ptxas \
    /opt/spark-speech/lib/python3.*/site-packages/triton/backends/nvidia/bin/ptxas-blackwell; do
    [ -x "$found" ] || continue
    release=$("$found" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    if [ "${release:-0}" -ge 13 ]; then
        ln -sf "$found" "$target"
        echo "$target -> $found"
        exit 0
    fi
done
echo "Error: neither torch nor the base image has a ptxas of CUDA 13; name a base that has one" >&2
exit 1
