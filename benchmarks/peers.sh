#!/usr/bin/env bash
# Makes the two environments in which `python -m benchmarks.time_to_quality` trains its peers: DIR/rectools, DIR/recbole.
#
#     benchmarks/peers.sh DIR
#
# Each is apart from ours and from the other, since they need other versions of the same packages. One that is whole is
# kept, unless a pin below has changed. Packages come from the index that pip is configured with. PYTHON names the
# interpreter (3.10 or 3.11, for which RecBole's ray and this torch both have builds; default python3).
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "Expected one folder for the environments, got $# arguments: benchmarks/peers.sh DIR" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
python=${PYTHON:-python3}

torch=2.13.0 # both peers take any torch from 1.10 on; the same one for both, so that no peer has a faster library

rectools=(
    "rectools[torch]==0.19.0" # brings pytorch-lightning 2.5.2, the newest that it allows
)
recbole=(
    "recbole==1.2.1"
    "numpy==1.26.4" # RecBole sets np.float_ and others, which numpy 2 has no more
    "pandas==2.2.3" # RecBole fills gaps by chained assignment, which pandas 3 does on a copy
)

# The CPU's build has no CUDA libraries, which are gigabytes; some indexes have it under a version of its own.
install_torch() {
    "$1" -m pip install --quiet "torch==$torch+cpu" || "$1" -m pip install --quiet "torch==$torch"
}

# make NAME CHECK PACKAGE...: one environment; it is marked as whole once the lines of CHECK run in it.
make() {
    local name=$1 check=$2
    shift 2
    local where=$folder/$name mark=$folder/$name/complete wanted="torch==$torch $*"
    if [ -f "$mark" ] && [ "$(cat "$mark")" = "$wanted" ]; then
        echo "$name: whole, kept"
        return
    fi
    echo "$name: installing $wanted"
    "$python" -m venv --clear "$where"
    install_torch "$where/bin/python"
    "$where/bin/python" -m pip install --quiet "$@"
    "$where/bin/python" -c "$check" > /dev/null
    echo "$wanted" > "$mark"
    echo "$name: done, $(du -sh "$where" | cut -f1)"
}

make rectools "from rectools.models import SASRecModel; SASRecModel()" "${rectools[@]}"
make recbole "from recbole.config import Config; Config('SASRec', 'ml-100k', config_dict={'train_neg_sample_args': None})" \
    "${recbole[@]}"
