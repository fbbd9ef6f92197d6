#!/bin/sh
# runc where nothing may lower its oom_score_adj (no CAP_SYS_RESOURCE), which the kubelet wants of a pod's first container.
previous=
bundle=.
for argument; do
    case $previous in --bundle | -b) bundle=$argument ;; esac
    previous=$argument
done
[ -f "$bundle/config.json" ] && sed -i 's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/' "$bundle/config.json"
exec runc "$@"
