#!/bin/sh
# Install this checkout, editable, into .venv at the versions of constraints.txt.
#
#     sh scripts/install.sh .          what `make demo` needs
#     sh scripts/install.sh '.[dev]'   what `make test` needs
#
# The second also installs data_only, packages whose files tests read (benchmarks/real_teachers.py).
# They are never imported and come without what they ask for, such as a TensorFlow of 2022.
#
# PYTHON names the interpreter to make .venv with; without it the newest fitting one is taken.
# uv does the installing: the one on PATH, or one that pip puts into .venv.
set -eu

cd "$(dirname "$0")/.."
spec=$1
candidates='python3.13 python3.12 python3.11 python3'
data_only='cifar-10-model foolbox'
supported='(3, 11) <= sys.version_info[:2] <= (3, 13)'

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

is_supported() {
    "$1" -c "import sys; sys.exit(not $supported)" 2>/dev/null
}

# Run each one: a name on PATH may be a pyenv shim with nothing behind it.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" ||
            fail "dfkd needs Python 3.11, 3.12 or 3.13; PYTHON=$PYTHON is not one, or does not run."
        python=$PYTHON
        return
    fi
    for python in $candidates; do
        if is_supported "$python"; then return; fi
    done
    fail "dfkd needs Python 3.11, 3.12 or 3.13, and none of these is one: $candidates." \
        "Install one, or say where it is: make PYTHON=/path/to/python ..."
}

uv_on_path() {
    uv --version >/dev/null 2>&1
}

make_venv() {
    find_python
    python=$("$python" -c 'import sys; print(sys.executable)')
    echo "Making .venv with $python"
    rm -rf .venv
    if uv_on_path; then
        uv venv --quiet --python "$python" .venv
    else
        "$python" -m venv --without-pip .venv
    fi
}

get_uv() {
    echo "uv is not on PATH: pip puts it into .venv"
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null ||
        fail "This Python cannot install pip. Install its venv package (python3-venv), or uv."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv
}

is_good_venv="import sys; sys.exit(sys.prefix == sys.base_prefix or not $supported)"
.venv/bin/python -c "$is_good_venv" 2>/dev/null || make_venv

if uv_on_path; then
    uv=uv
else
    [ -x .venv/bin/uv ] || get_uv
    uv=.venv/bin/uv
fi
"$uv" pip install --python .venv/bin/python -c constraints.txt -b constraints.txt -e "$spec"
case $spec in
*dev*)
    # shellcheck disable=SC2086  # several words are several packages
    "$uv" pip install --python .venv/bin/python -c constraints.txt --no-deps $data_only
    ;;
esac
