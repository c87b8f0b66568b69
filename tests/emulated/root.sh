#!/usr/bin/env bash
# Unpack Pythons for arm64 and armv7 with the runtimes, and the qemu for them: tests/emulated/root.sh FOLDER
# Needs Debian's apt, dpkg and keys, and pip; no root rights, and the system's own packages stay as they are.
set -euo pipefail
folder=$(realpath -m "$1")
if test -e "$folder/ready"; then exit 0; fi
apt=$folder/apt
mkdir -p "$apt"/{lists/partial,archives/partial}
touch "$apt/status"
for suite in bookworm bookworm-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
done > "$apt/sources.list"

# Packages of one architecture, by an apt of its own, into apt/ARCHITECTURE.
fetch() {
    local architecture=$1
    shift
    local options=(
        -qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o Acquire::Languages=none
        -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" -o APT::Sandbox::User=
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    )
    mkdir -p "$apt/$architecture"
    apt-get "${options[@]}" update
    (cd "$apt/$architecture" && apt-get "${options[@]}" download "$@")
}

unpack() { for deb in "$apt/$1"/*.deb; do dpkg -x "$deb" "$folder/$1"; done; }

# qemu 7.2, which bookworm itself has, crashes ONNX Runtime and LiteRT.
here=$(dpkg --print-architecture)
fetch "$here" qemu-user/bookworm-backports
for name in aarch64 arm; do
    dpkg --fsys-tarfile "$apt/$here"/qemu-user_*.deb | tar -x -C "$folder" --strip-components=3 "./usr/bin/qemu-$name"
done
python=(
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1 zlib1g libexpat1
    libffi8 libssl3 libbz2-1.0 liblzma5
)
fetch arm64 "${python[@]}"
fetch armhf "${python[@]}" python3-numpy libblas3 liblapack3 libgfortran5 # of which the index has no wheel
unpack arm64
unpack armhf

# pip picks the wheels and unpacks them; nothing of them is run.
wheels() {
    local place=$1 machine=$2 platforms=(--platform any)
    shift 2
    for each in manylinux_2_34 manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${each}_$machine")
    done
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --target "$folder/$place" --python-version 3.11 --implementation cp --abi cp311 "${platforms[@]}" "$@"
}
versions=$(dirname "$0")/../../constraints.txt
wheels arm64-modern aarch64 -c "$versions" numpy onnxruntime ai-edge-litert protobuf flatbuffers packaging
wheels arm64-old aarch64 'numpy<2' 'tflite-runtime==2.14.0'
wheels armhf-old armv7l 'tflite-runtime==2.14.0'
rm -r "$apt"
touch "$folder/ready"
