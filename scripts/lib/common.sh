# shellcheck shell=bash
# What every part of the set-up uses: messages, deadlines, privileges.

# dockerd is where an ordinary user's PATH does not look, and cargo where rustup puts it.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-}/.cargo/bin

SETUP_ARGUMENTS=()

# Where pip, npm and the downloads get packages from.
PACKAGE_VARIABLES=(PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT NPM_CONFIG_REGISTRY npm_config_registry
  http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# need_root WHY [OTHERWISE]: goes on only as root. Otherwise starts the whole script again through sudo, which is safe
# since every step looks first whether it has been done.
need_root() {
  local name kept=("PATH=$PATH" "HOME=$HOME" "SETUP_USER=$(id -un)")
  [ "$(id -u)" -ne 0 ] || return 0
  command -v sudo >/dev/null || die "$1 needs root and there is no sudo; run scripts/setup as root${2:+, or $2}"
  say "$1 needs root: going on with sudo"
  for name in ENGINE CELLBLOCK_IMAGE_STORE DOCKER_DAEMON_JSON TMPDIR "${PACKAGE_VARIABLES[@]}"; do
    if [ -n "${!name:-}" ]; then kept+=("$name=${!name}"); fi
  done
  exec sudo env "${kept[@]}" "$PWD/scripts/setup" "${SETUP_ARGUMENTS[@]}"
}

# as_user COMMAND...: what belongs to the user who called, also where the script went on with sudo.
as_user() {
  if [ -n "${SETUP_USER:-}" ]; then runuser -u "$SETUP_USER" -- "$@"; else "$@"; fi
}

cargo_found() { command -v cargo >/dev/null; }

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
