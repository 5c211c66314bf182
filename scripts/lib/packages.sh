# shellcheck shell=bash
# Docker Engine, Compose, runsc and the tools of builds and tests, from Debian's packages.

DOCKER_MINIMUM=24
COMPOSE_MINIMUM=2.26.1

# Prints the missing packages by their names in Debian, one a line.
missing_packages() {
  if with_docker; then missing_docker; fi
  command -v runsc >/dev/null || echo runsc
  command -v jq >/dev/null || echo jq
  command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
  command -v make >/dev/null || echo make
  if with_tests; then
    command -v shellcheck >/dev/null || echo shellcheck
    # The tests of the image store pull from a real registry what skopeo pushed there.
    command -v skopeo >/dev/null || echo skopeo
    command -v docker-registry >/dev/null || echo docker-registry
  fi
}

missing_docker() {
  # A client alone, as some machines have, is no engine; a daemon that answers is one wherever it came from.
  if ! command -v dockerd >/dev/null && ! docker_answers; then printf '%s\n' docker.io containerd runc docker-cli
  elif ! command -v docker >/dev/null; then echo docker-cli; fi
  if ! compose_fits; then
    # The two builds of Compose bring the same file: each goes with its own engine.
    if dpkg -s docker-ce-cli >/dev/null 2>&1; then echo docker-compose-plugin; else echo docker-compose; fi
  fi
}

compose_fits() {
  local version
  version=$(docker compose version --short 2>/dev/null) || return 1
  at_least "$COMPOSE_MINIMUM" "${version#v}"
}

# at_least MINIMUM VERSION
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

install_missing_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -gt 0 ]; then install_packages "${missing[@]}"; fi
}

# install_packages NAME...
install_packages() {
  local name names=() distribution
  # shellcheck source=/dev/null
  distribution=$(. /etc/os-release && printf '%s %s' "$ID" "${VERSION_ID:-}")
  case $distribution in
    'debian 12' | 'debian 13') ;;
    *) die "missing: $*
On '$distribution' install them by the official steps, then run this again:
  Docker Engine $DOCKER_MINIMUM or newer, Compose $COMPOSE_MINIMUM or newer: https://docs.docker.com/engine/install/
  runsc: https://gvisor.dev/docs/user_guide/install/
  buildah: https://github.com/containers/buildah/blob/main/install.md" ;;
  esac
  need_root "installing packages"
  say "reading the package lists"
  quietly apt-get update || die "apt-get update failed"
  if [ "$distribution" = 'debian 12' ]; then trixie_source; fi
  say "installing $*"
  for name in "$@"; do mapfile -t -O ${#names[@]} names < <(package_for "$distribution" "$name"); done
  DEBIAN_FRONTEND=noninteractive quietly apt-get install -y --no-install-recommends "${names[@]}" || die "apt-get install failed"
}

# Debian 12's docker.io (20.10) and runsc (2022, without systrap) are too old and come from trixie; its runc is the one
# that fits its libc. Debian 13's buildah starts only with netavark, whatever network it is told to use.
package_for() {
  case $1:$2 in
    'debian 12':docker.io | 'debian 12':docker-cli | 'debian 12':containerd | 'debian 12':docker-compose | 'debian 12':runsc)
      echo "$2/trixie" ;;
    'debian 13':buildah) printf '%s\n' buildah netavark ;;
    *) echo "$2" ;;
  esac
}

# Prints the machine's own mirror of Debian's main archive, so that company mirrors serve too; nothing elsewhere.
debian_mirror() {
  local uri
  command -v apt-get >/dev/null || return 0
  # shellcheck disable=SC2016 # apt-get's variables, not the shell's
  uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
    sed -n 's/^Debian \([^ ]*\)$/\1/p' | sort -u | sed -n 1p)
  case $uri in
    # Cloud images name a file that lists mirrors.
    mirror+file:*) uri=$(awk 'NF && !/^#/ { print $1; exit }' "/${uri#mirror+file:}") ;;
  esac
  printf '%s' "$uri"
}

# Adds trixie to Debian 12 with a priority below every installed version, so that nothing else moves.
trixie_source() {
  local mirror
  # shellcheck disable=SC2016 # apt-get's variables, not the shell's
  if apt-get indextargets --format '$(CODENAME)' 'Created-By: Packages' | grep -qx trixie; then return 0; fi
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || die "the apt configuration names no mirror of Debian's main archive"
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' \
    "$mirror" >/etc/apt/sources.list.d/cellblock-trixie.sources
  printf 'Package: *\nPin: release n=trixie\nPin-Priority: 100\n' >/etc/apt/preferences.d/cellblock-trixie
  say "added Debian trixie as an apt source of priority 100 (cellblock-trixie in sources.list.d and preferences.d)"
  quietly apt-get update || die "apt-get update failed"
}
