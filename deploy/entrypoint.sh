#!/bin/sh
# Reads the database's URL from a secret file, so that the password in it is in no list of processes
# and in no description of the container.
set -eu
if [ -n "${BCD_RECORDS_FILE:-}" ]; then
    BCD_RECORDS=$(cat "$BCD_RECORDS_FILE")
    export BCD_RECORDS
fi
exec bcd serve "$@"
