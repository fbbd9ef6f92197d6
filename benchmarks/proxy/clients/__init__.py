"""What makes the load: streams of which every event is timed, requests of wrk, tabs of the console."""
