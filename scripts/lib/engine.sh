# shellcheck shell=bash
# Which engines the machine is set up for.

# Takes ENGINE, or what the machine has: Docker is never installed unasked.
choose_engine() {
  case ${ENGINE:-} in
    docker | runsc | all) ;;
    '') if command -v dockerd >/dev/null || docker_answers; then ENGINE=docker; else ENGINE=runsc; fi ;;
    *) die "unknown engine \`$ENGINE\`; it is \`docker\`, \`runsc\` or \`all\`" ;;
  esac
}

with_docker() { [ "$ENGINE" != runsc ]; }
with_tests() { [ "$ENGINE" = all ]; }
