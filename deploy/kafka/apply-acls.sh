#!/bin/sh
# Adds the ACLs beside it to a Kafka cluster; what is there already stays as it is, so it may be run again.
#
#   deploy/kafka/apply-acls.sh --bootstrap-server kafka:9093 --command-config admin.properties
#
# All arguments go to kafka-acls.sh, which KAFKA_ACLS names where it is not in the PATH. RESOLUTION_TOPIC_PREFIX stands
# for `resolution.` at the beginning of names. ACLS names another table.
set -eu
table=${ACLS:-$(dirname "$0")/acls}
prefix=${RESOLUTION_TOPIC_PREFIX:-resolution.}

each() { # each OPTION BEFORE LIST: adds `OPTION BEFORE-one` to `arguments` for each of a list
  for one in $(echo "$3" | tr , ' '); do
    arguments="$arguments $1 $2$one"
  done
}

set -f # no name is a pattern of files
grep -v -e '^#' -e '^$' "$table" | while read -r principals operations resource names; do
  names=$(echo ",$names" | sed "s/,resolution\./,$prefix/g; s/^,//")
  arguments=''
  each --allow-principal User: "$principals"
  each --operation '' "$operations"
  case $names in
    *\*) each "--$resource" '' "${names%\*}"; arguments="$arguments --resource-pattern-type prefixed" ;;
    *) each "--$resource" '' "$names" ;;
  esac
  echo "$principals: $operations on $resource $names"
  # shellcheck disable=SC2086 # the arguments are words
  "${KAFKA_ACLS:-kafka-acls.sh}" "$@" --add $arguments </dev/null >/dev/null || {
    echo "kafka-acls.sh refused this line; the lines before it are in force." >&2
    exit 1
  }
done
