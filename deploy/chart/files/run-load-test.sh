# One headless load test, given its options; ends with its status. The report stays where it can be fetched until somebody
# has done so (`touch fetched` beside it), at most KEEP_S seconds. TARGET_READY: where the target says that it is ready.
runs=$STACK_DIR/runs

trap 'kill -TERM "$test" 2>/dev/null; wait "$test"; exit 143' TERM
trap 'exit 143' INT

until [ -z "$TARGET_READY" ] || python -m stack.health "$TARGET_READY" >/dev/null 2>&1; do
    sleep 2
done
python -m loadtest --headless "$@" &
test=$!
wait "$test"
status=$?
trap 'exit 143' TERM

newest=$(ls -td "$runs"/*/ | head -n 1)
cat "$newest/report.md"
deadline=$(($(date +%s) + KEEP_S))
until [ -e "$runs/fetched" ] || [ "$(date +%s)" -ge "$deadline" ]; do
    sleep 1
done
exit "$status"
