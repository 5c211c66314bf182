# shellcheck shell=bash
# The Docker daemon: whether it answers, which version it is, and starting it.

DAEMON_LOG=/var/log/cellblock-dockerd.log
DAEMON_PID=/run/docker.pid

# Not `docker info --format`: Docker 26 lets it succeed without a daemon.
docker_answers() { docker_version >/dev/null; }
docker_version() { timeout 10 docker version --format '{{.Server.Version}}' 2>/dev/null; }
docker_version_fits() { at_least "$DOCKER_MINIMUM" "$(docker_version)"; }
runtime_loaded() { [ "$(loaded_runtime)" = "$(wanted_runtime)" ] && [ -n "$(wanted_runtime)" ]; }

# The daemon's own view of the runtime, and the one in daemon.json: path and flags.
loaded_runtime() { timeout 10 docker info --format '{{json .Runtimes}}' | jq -c --arg name "$RUNTIME" '.[$name] | [.path, .runtimeArgs]'; }
wanted_runtime() { daemon_json | jq -c --arg name "$RUNTIME" '.runtimes[$name] // empty | [.path, .runtimeArgs]'; }

start_docker() {
  docker_answers || start_daemon
  docker_version_fits ||
    die "Docker Engine $(docker_version) is older than $DOCKER_MINIMUM; upgrade it: https://docs.docker.com/engine/install/"
  runtime_loaded || reload_runtimes
}

start_daemon() {
  local daemon=$$
  need_root "starting or reaching the Docker daemon"
  if [ -d /run/systemd/system ]; then
    say "starting the Docker service"
    quietly systemctl start docker || die "systemctl start docker failed; see journalctl -u docker"
  else
    await_former_daemon
    docker_answers && return
    say "starting dockerd in the background, its log is $DAEMON_LOG"
    setsid nohup dockerd --config-file "$DAEMON_JSON" >>"$DAEMON_LOG" 2>&1 </dev/null &
    daemon=$!
  fi
  wait_for 60 answers_or_ended "$daemon" || true
  docker_answers || {
    if [ "$daemon" != $$ ]; then tail -n 20 "$DAEMON_LOG" | cut -c -300 >&2; fi
    die "the Docker daemon does not come up; its log says why"
  }
}

# answers_or_ended PROCESS
answers_or_ended() { docker_answers || ! kill -0 "$1" 2>/dev/null; }

# A daemon that is just starting or ending gets the time for it. One that ended abruptly leaves a pid file, whose number
# may by now be another process's.
await_former_daemon() {
  former_daemon || { rm -f "$DAEMON_PID"; return; }
  say "waiting for the dockerd that is already there"
  wait_for 30 daemon_settled || die "dockerd (process $(cat "$DAEMON_PID")) runs but does not answer"
  former_daemon || rm -f "$DAEMON_PID"
}

former_daemon() { [ -e "$DAEMON_PID" ] && grep -qsx dockerd "/proc/$(cat "$DAEMON_PID")/comm"; }
daemon_settled() { docker_answers || ! former_daemon; }

# Runtimes are read again on SIGHUP; a restart would end the user's containers.
reload_runtimes() {
  need_root "making the Docker daemon read its runtimes again"
  former_daemon || die "restart the Docker daemon, it does not know the runtime \`$RUNTIME\` of $DAEMON_JSON yet"
  say "making dockerd read $DAEMON_JSON again"
  kill -HUP "$(cat "$DAEMON_PID")"
  wait_for 10 runtime_loaded || die "dockerd does not take the runtime \`$RUNTIME\` of $DAEMON_JSON; its log says why"
}
