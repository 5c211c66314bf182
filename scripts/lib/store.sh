# shellcheck shell=bash
# The images in cellblock's own image store, which the engine `runsc` starts from: out of Docker where it is there,
# otherwise built by buildah from the same Dockerfiles, without a daemon.

# The store belongs to the user who runs cellblock: root's is /var/lib/cellblock, anybody else's ~/.local/share/cellblock.
cellblock() { as_user "$(program)" "$@"; }

# The program that fills the store: for tests the one that they build anyway, else the one that people run.
program() { if with_tests; then echo target/debug/cellblock; else echo target/release/cellblock; fi; }

# Nothing to do takes cargo a fraction of a second.
build_cellblock() {
  local options=(--quiet)
  with_tests || options+=(--release)
  [ -x "$(program)" ] || say "building $(program)"
  as_user cargo build "${options[@]}" || die "cargo build ${options[*]} failed"
}

inputs_in_store() {
  cellblock image list --json | jq -r --arg name "cellblock/$1" \
    '.[] | select(.reference == ($name, $name + ":latest")) | .labels["cellblock.inputs"]'
}

# import_image NAME: takes the archive that it reads.
import_image() { cellblock image import --name "cellblock/$1" - >/dev/null; }

fill_store() {
  local stale name
  build_cellblock
  mapfile -t stale < <(stale_images inputs_in_store)
  [ ${#stale[@]} -gt 0 ] || return 0
  if ! with_docker; then
    build_without_daemon "${stale[@]}"
    return
  fi
  for name in "${stale[@]}"; do
    say "copying cellblock/$name from Docker into the image store"
    docker save "cellblock/$name" | import_image "$name" || die "importing cellblock/$name failed"
  done
}

# build_without_daemon NAME...: everything that buildah keeps is in one folder that goes away with this script; not in
# /tmp, which may be memory: two images need 2 GB for the time of it.
build_without_daemon() {
  local name
  need_root "building images without Docker" "import archives of images that were built elsewhere:
  docker save cellblock/python | ssh HOST cellblock image import --name cellblock/python -"
  command -v buildah >/dev/null || install_packages buildah
  WORK=$(mktemp -d -p "${TMPDIR:-/var/tmp}" cellblock-images.XXXXXX)
  trap 'rm -rf "$WORK"' EXIT
  # The storage driver that works on every file system; overlay was not faster.
  BUILDAH=(buildah --root "$WORK/root" --runroot "$WORK/run" --storage-driver vfs)
  base_in_buildah
  build_images buildah_build "$@" || die "building images failed"
  for name in "$@"; do
    say "importing cellblock/$name into the image store"
    "${BUILDAH[@]}" push --quiet "cellblock/$name" "docker-archive:/dev/stdout:cellblock/$name:latest" |
      import_image "$name" || die "importing cellblock/$name failed"
  done
}

# A chroot is the isolation: it needs neither an OCI runtime nor cgroups, and what runs there are the installers of
# Debian, PyPI and npm. Without the limits buildah asks for more open files and processes than root may have where the
# capability SYS_RESOURCE is missing. Of the processes it has by then given up those beyond the machine's last id.
buildah_build() {
  local processes
  processes=$(ulimit -Hu)
  if [ "$processes" = unlimited ] || [ "$processes" -gt "$(cat /proc/sys/kernel/pid_max)" ]; then
    processes=$(cat /proc/sys/kernel/pid_max)
  fi
  "${BUILDAH[@]}" build --isolation chroot --network host --pull=never --format docker \
    --ulimit "nofile=$(ulimit -Sn):$(ulimit -Hn)" --ulimit "nproc=$processes:$processes" \
    --label "cellblock.inputs=$(image_inputs "$1")" -t "cellblock/$1" "$2"
}

base_in_buildah() {
  local container
  say "pulling $BASE"
  if timeout 60 "${BUILDAH[@]}" pull "docker.io/library/$BASE" >/dev/null 2>&1; then return 0; fi
  need_debian_packages
  debian_packages >"$WORK/base.tar" || die "making $BASE failed"
  container=$("${BUILDAH[@]}" from scratch)
  quietly "${BUILDAH[@]}" add "$container" "$WORK/base.tar" / || die "unpacking $BASE failed"
  quietly "${BUILDAH[@]}" commit --rm "$container" "$BASE" || die "making $BASE failed"
  rm "$WORK/base.tar"
}
