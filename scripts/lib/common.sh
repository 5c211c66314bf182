# shellcheck shell=bash
# What every part of the set-up uses: messages, deadlines, privileges.

# dockerd is where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

SETUP_ARGUMENTS=()

# Where pip, npm and the downloads get packages from.
PACKAGE_VARIABLES=(PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT NPM_CONFIG_REGISTRY npm_config_registry
  http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# need_root WHY: goes on only as root. Otherwise starts the whole script again through sudo, which is safe since every
# step looks first whether it has been done.
need_root() {
  local name kept=("PATH=$PATH" "HOME=$HOME")
  [ "$(id -u)" -ne 0 ] || return 0
  command -v sudo >/dev/null || die "$1 needs root and there is no sudo; run scripts/setup as root"
  say "$1 needs root: going on with sudo"
  for name in DOCKER_DAEMON_JSON "${PACKAGE_VARIABLES[@]}"; do
    if [ -n "${!name:-}" ]; then kept+=("$name=${!name}"); fi
  done
  exec sudo env "${kept[@]}" "$PWD/scripts/setup" "${SETUP_ARGUMENTS[@]}"
}

cargo_found() { command -v cargo >/dev/null || [ -x "${HOME:-}/.cargo/bin/cargo" ]; }

need_cargo() {
  cargo_found || die "cargo is missing; install Rust with rustup, https://rustup.rs:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
}

# wait_for SECONDS COMMAND...: tries the command until it succeeds or the time is over.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}

# quietly COMMAND...: shows what the command printed only when it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  [ "$status" -eq 0 ] || tail -n 40 "$log" >&2
  rm -f "$log"
  return "$status"
}
