#!/usr/bin/env bash
# Unpack an arm64 Python with the three runtimes, and a qemu that runs it, into FOLDER: tests/arm64/root.sh FOLDER
# Needs Debian's apt and dpkg, their keys and pip; no root rights, and the system's own packages stay as they are.
set -euo pipefail
folder=$(realpath -m "$1")
test -e "$folder/ready" && exit 0
mkdir -p "$folder"/{apt/lists/partial,apt/archives/partial,debs,qemu,root}
touch "$folder/apt/status"

cat > "$folder/apt/sources.list" <<SOURCES
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main
SOURCES

# An apt of its own for one architecture.
fetch() {
    local architecture=$1; shift
    local options=(
        -qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o Acquire::Languages=none
        -o "Dir::State=$folder/apt" -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt"
        -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o APT::Sandbox::User=
    )
    apt-get "${options[@]}" update
    (cd "$folder/debs" && apt-get "${options[@]}" download "$@")
}

# qemu 7.2, which bookworm itself has, crashes ONNX Runtime and LiteRT.
fetch amd64 qemu-user/bookworm-backports
fetch arm64 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libgomp1 \
    zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libuuid1 libcrypt1 libsqlite3-0 libncursesw6 libtinfo6 \
    libreadline8 libdb5.3 libnsl2 libtirpc3
for deb in "$folder"/debs/qemu-user*_amd64.deb; do dpkg -x "$deb" "$folder/qemu"; done
for deb in "$folder"/debs/*_arm64.deb; do dpkg -x "$deb" "$folder/root"; done

# Wheels are unpacked beside it: pip only picks and unpacks them, it runs nothing of them.
wheels() {
    local place=$1; shift
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target "$folder/$place" \
        --python-version 3.11 --implementation cp --abi cp311 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 --platform manylinux_2_34_aarch64 --platform any "$@"
}
wheels modern 'numpy==2.4.6' 'onnxruntime==1.32.0' 'ai-edge-litert==2.3.0' protobuf flatbuffers packaging
wheels old 'numpy<2' 'tflite-runtime==2.14.0'
touch "$folder/ready"
