# Source this in a checkout on the GPU machine: `. KIT/install.sh`. It unpacks the kit's wheels into
# the kit, without pip, and sets the environment for the check. (python: PYTHON, or python3)
# shellcheck shell=bash
_kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for _wheel in "$_kit"/wheels/*.whl; do
    [[ -e $_wheel ]] && "${PYTHON:-python3}" -m zipfile -e "$_wheel" "$_kit/site"
done
export PYTHONPATH="$PWD:$_kit/site" PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
RESHARP_COMMIT=$(cat "$_kit/commit")
export RESHARP_COMMIT
unset _kit _wheel
