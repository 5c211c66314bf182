# shellcheck shell=bash
# What `scripts/setup --check` says; it changes nothing.

# check_all IMAGES: says what is missing; succeeds when nothing is. IMAGES is `true` or `false`.
check_all() {
  local images=$1 complete=true packages
  cargo_found || missing "cargo"
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -eq 0 ] || missing "packages: ${packages[*]}"
  if with_docker; then check_docker; fi
  if command -v runsc >/dev/null && ! (working_platform >/dev/null); then missing "a gVisor platform that works"; fi
  if $images; then check_images "the image store" inputs_in_store; fi
  $complete
}

missing() { complete=false; say "missing $*"; }

check_docker() {
  if ! docker_answers; then
    missing "a Docker daemon that answers"
  elif ! docker_version_fits; then
    missing "Docker Engine $DOCKER_MINIMUM or newer, this is $(docker_version)"
  elif command -v jq >/dev/null; then
    choose_runtime "$(daemon_json)"
    runtime_loaded || missing "the runtime \`$RUNTIME\`, or it lacks flags that cellblock needs"
    if $images; then check_images Docker inputs_in_docker; fi
  fi
}

# check_images WHERE INPUTS_OF
check_images() {
  local stale
  mapfile -t stale < <(stale_images "$2")
  [ ${#stale[@]} -eq 0 ] || missing "images in $1, or what they are made of changed: ${stale[*]}"
}
