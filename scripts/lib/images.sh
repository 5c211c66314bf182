# shellcheck shell=bash
# The images cellblock/python and cellblock/nodejs: what they are made of, and building them in Docker.

IMAGES=(python nodejs)
BASE=debian:trixie-slim

# What an image is made of, as a hash: only the files that its .dockerignore lets in, not the kernels. The image carries
# it as the label `cellblock.inputs`.
image_inputs() {
  local name
  for name in Dockerfile requirements.txt package.json package-lock.json; do
    if [ -e "images/$1/$name" ]; then cat "images/$1/$name"; fi
  done | sha256sum | cut -c1-16
}

# stale_images INPUTS_OF: prints the images whose inputs, as that command knows them, are not the present ones.
stale_images() {
  local name
  for name in "${IMAGES[@]}"; do
    [ "$("$1" "$name" 2>/dev/null)" = "$(image_inputs "$name")" ] || echo "$name"
  done
}

inputs_in_docker() { docker image inspect -f '{{index .Config.Labels "cellblock.inputs"}}' "cellblock/$1"; }

build_in_docker() {
  local stale name failed=false
  mapfile -t stale < <(stale_images inputs_in_docker)
  [ ${#stale[@]} -gt 0 ] || return 0
  base_in_docker
  build_images docker_build "${stale[@]}" || failed=true
  # The first stages and what the images were before; only images that no name and no container holds.
  for name in cellblock.stage cellblock.inputs; do
    docker image prune --force --filter "label=$name" >/dev/null || true
  done
  if $failed; then die "building images failed"; fi
}

# The classic builder, which needs no plugin.
docker_build() {
  DOCKER_BUILDKIT=0 docker build --network=host --force-rm --label "cellblock.inputs=$(image_inputs "$1")" \
    -t "cellblock/$1" "$2"
}

# build_images BUILDER NAME...: side by side, since one waits for the network while the other compiles.
build_images() {
  local builder=$1 name build builds=() failed=false
  shift
  for name in "$@"; do
    build_image "$builder" "$name" &
    builds+=($!)
  done
  for build in "${builds[@]}"; do wait "$build" || failed=true; done
  ! $failed
}

# build_image BUILDER NAME: the builder gets the name and the folder to build from.
build_image() {
  local context started=$SECONDS
  say "building cellblock/$2"
  context=$(mktemp -d)
  cp -r "images/$2/." "$context"
  machine_configuration "$context/machine"
  quietly "$1" "$2" "$context" || { rm -rf "$context"; say "error: building cellblock/$2 failed"; return 1; }
  rm -rf "$context"
  say "built cellblock/$2 in $((SECONDS - started)) s"
}

# Where this machine gets packages from, for the build alone: mirrors, proxies and certificates of a company network
# work without further settings.
machine_configuration() {
  local mirror file name
  mkdir "$1"
  mirror=$(debian_mirror)
  {
    echo 'Acquire::https::CaInfo "/build/ca.crt";'
    if command -v apt-config >/dev/null; then apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-)' || true; fi
    if [ -n "$mirror" ]; then
      printf 'deb %s trixie main\n' "$mirror" >"$1/sources.list"
      printf 'Dir::Etc::sourcelist "/build/sources.list";\nDir::Etc::sourceparts "-";\n'
    fi
  } >"$1/apt.conf"
  first_file "${PIP_CONFIG_FILE:-}" ~/.config/pip/pip.conf ~/.pip/pip.conf /etc/pip.conf >"$1/pip.conf"
  first_file "${NPM_CONFIG_USERCONFIG:-}" ~/.npmrc >"$1/npmrc"
  first_file "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem >"$1/ca.crt"
  {
    echo 'export APT_CONFIG=/build/apt.conf PIP_CONFIG_FILE=/build/pip.conf NPM_CONFIG_USERCONFIG=/build/npmrc'
    if [ -s "$1/ca.crt" ]; then
      echo 'export PIP_CERT=/build/ca.crt NODE_EXTRA_CA_CERTS=/build/ca.crt NPM_CONFIG_CAFILE=/build/ca.crt'
    else
      sed -i /CaInfo/d "$1/apt.conf"
    fi
    for name in "${PACKAGE_VARIABLES[@]}"; do
      if [ -n "${!name:-}" ]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
    done
  } >"$1/env"
}

# Prints the first of the files that can be read, nothing for none.
first_file() {
  local file
  for file in "$@"; do
    if [ -r "$file" ]; then cat "$file"; return; fi
  done
}

# The same name that a registry serves; made from packages where no registry can be reached.
base_in_docker() {
  if docker image inspect "$BASE" >/dev/null 2>&1; then return 0; fi
  say "pulling $BASE"
  if timeout 60 docker pull -q "$BASE" >/dev/null 2>&1; then return 0; fi
  need_debian_packages
  debian_packages | docker import - "$BASE" >/dev/null || die "making $BASE failed"
}

# Whatever `debian_packages` needs, installed outside of a pipe.
need_debian_packages() {
  command -v apt-get >/dev/null || die "$BASE cannot be pulled, and only Debian can make it from packages"
  need_root "making $BASE"
  say "no registry answers: making $BASE from Debian's packages"
  command -v mmdebstrap >/dev/null || install_packages mmdebstrap
  [ -n "$(debian_mirror)" ] || die "the apt configuration names no mirror of Debian's main archive"
}

# Prints the base as a tar archive: like the original without documentation, and with a dpkg that does not wait for the
# disk after every file (three times as fast).
debian_packages() {
  mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' trixie - "$(debian_mirror)"
}
