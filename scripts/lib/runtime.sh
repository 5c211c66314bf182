# shellcheck shell=bash
# The OCI runtime in Docker's daemon.json.

DAEMON_JSON=${DOCKER_DAEMON_JSON:-/etc/docker/daemon.json}
# The name ours goes by: `cellblock-runsc` where `runsc` is somebody else's.
RUNTIME=runsc

# is_ours NAME JSON: is that runtime one with our flags, on whatever platform?
is_ours() {
  # shellcheck disable=SC2016 # jq's variable, not the shell's
  jq -e --arg name "$1" '.runtimes[$name] | ((.runtimeArgs // []) | map(select(startswith("--platform=") | not)) | sort)
    == ["--network=none", "--oci-seccomp"]' >/dev/null <<<"$2"
}

# choose_runtime JSON
choose_runtime() {
  if jq -e '.runtimes.runsc' >/dev/null <<<"$1" && ! is_ours runsc "$1"; then RUNTIME=cellblock-runsc; fi
}

# Prints daemon.json, `{}` for none or a blank one.
daemon_json() {
  local text
  text=$(cat "$DAEMON_JSON" 2>/dev/null || true)
  [[ $text = *[![:space:]]* ]] || text='{}'
  printf '%s' "$text"
}

# A platform counts when a sandbox on it starts. `kvm` is not even tried: on machines with a paravirtual /dev/kvm it
# hangs with a busy processor.
working_platform() {
  local platform output rootless=--rootless
  if [ "$(id -u)" -eq 0 ]; then rootless=--ignore-cgroups; fi
  for platform in systrap ptrace; do
    if output=$(timeout -k 2 10 runsc "$rootless" --network=none --platform="$platform" "do" true 2>&1); then
      printf '%s' "$platform"
      return
    fi
    say "the gVisor platform $platform does not work here: $output"
  done
  die "runsc starts no sandbox on this machine; see https://gvisor.dev/docs/architecture_guide/platforms/"
}

# Registers runsc with --oci-seccomp, without which it ignores the seccomp profile, and --network=none, since sandboxes
# have no network and runsc refuses some kernels' empty network namespace. The platform is tried once and stays.
register_runtime() {
  local current merged platform
  current=$(daemon_json)
  jq -se 'length == 1 and (.[0] | type == "object" and ((.runtimes // {}) | type == "object"))' >/dev/null 2>&1 <<<"$current" ||
    die "$DAEMON_JSON is not the JSON object that Docker reads; nothing was changed"
  choose_runtime "$current"
  if [ "$RUNTIME" != runsc ]; then
    say "the runtime \`runsc\` in $DAEMON_JSON has other flags than cellblock needs and stays as it is:" \
      "use \`--runtime cellblock-runsc\` or set it in the configuration"
  fi
  if is_ours "$RUNTIME" "$current"; then return 0; fi
  [ -w "$(dirname "$(readlink -f "$DAEMON_JSON")")" ] || need_root "registering the runtime \`$RUNTIME\`"
  platform=$(working_platform)
  merged=$(jq --arg name "$RUNTIME" --arg path "$(command -v runsc)" --arg platform "--platform=$platform" \
    '.runtimes[$name] = {path: $path, runtimeArgs: [$platform, "--network=none", "--oci-seccomp"]}' <<<"$current")
  write_daemon_json "$merged"
  say "registered the runtime \`$RUNTIME\` (platform $platform) in $DAEMON_JSON"
}

# Replaces the file in one step, with the owner and mode that it has. Its first version stays beside it.
write_daemon_json() {
  local file backup
  mkdir -p "$(dirname "$DAEMON_JSON")"
  file=$(readlink -f "$DAEMON_JSON")
  backup=$DAEMON_JSON.before-cellblock
  if [ -e "$file" ]; then
    if [ ! -e "$backup" ]; then
      cp -p "$file" "$backup"
      say "kept the former $DAEMON_JSON as $backup"
    fi
    cp -p "$file" "$file.new"
  fi
  printf '%s\n' "$1" >"$file.new"
  mv "$file.new" "$file"
}
