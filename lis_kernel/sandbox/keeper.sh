# The keeper of one sandbox, started by sandbox/keeper.py and living as long as the sandbox.
# It is the process that holds a mount namespace of its own: in there /mnt holds the sandbox's disk,
# of a bounded size, and the host folders that the jail needs, where an unprivileged user can reach
# them. And it outlives its owner, by a moment: standard input ends, and it removes what is left.
#
#   keeper.sh FOLDER PYTHON REAPER DISK BYTES TMPFS_BYTES UID [NAME SOURCE]...
#
# DISK is `loop` (a file system in a file; for root), `tmpfs`, or `none` for no namespace at all.
# Prints the kind of disk that came to be and closes standard output; or says why not, and ends.
folder=$1 python=$2 reaper=$3 disk=$4 bytes=$5 tmpfs_bytes=$6 uid=$7
shift 7

# Nothing is made before the owner says that its folder is there.
read -r go

make_disk() {
    if [ "$disk" = loop ]; then
        truncate -s "$bytes" "$folder/disk.img" &&
            mke2fs -q -F -t ext4 -O ^has_journal -m 0 -i 16384 \
                -E "lazy_itable_init=1,nodiscard,root_owner=$uid:$uid" "$folder/disk.img" &&
            mount -o loop,nosuid,nodev,noatime "$folder/disk.img" /mnt/disk &&
            rm "$folder/disk.img" && return 0
        rm -f "$folder/disk.img"
    fi
    inodes=$((tmpfs_bytes / 16384 + 256))
    mount -t tmpfs -o "size=$tmpfs_bytes,nr_inodes=$inodes,mode=0700,nosuid,nodev" lis /mnt/disk &&
        chown "$uid:$uid" /mnt/disk && return 3
    return 1
}

if [ "$go" ] && [ "$disk" != none ]; then
    mount -t tmpfs -o size=256k,mode=0755,nosuid,nodev lis /mnt || exit 1
    mkdir /mnt/disk
    make_disk & # side by side with the binds below
    making=$!
    while [ $# -gt 0 ]; do
        if [ -d "$2" ]; then mkdir "/mnt/$1"; else : >"/mnt/$1"; fi
        mount --rbind "$2" "/mnt/$1" || exit 1
        shift 2
    done
    wait "$making"
    case $? in
    0) disk=loop ;;
    3) disk=tmpfs ;;
    *) exit 1 ;;
    esac
fi
[ "$go" ] && echo "$disk"
exec >&- 2>&-
read -r _ # returns when the owner's end is closed, whatever closed it
exec "$python" -I -S "$reaper" "$folder"
