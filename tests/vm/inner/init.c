/* The whole user space of the inner guest: loads its modules, finds its disk, and runs SCSI commands as told.
 *
 * Over the serial console, one line each way:
 *
 *     CDB in LENGTH | CDB out DATA | CDB none | off       (CDB and DATA in hexadecimal, LENGTH in bytes)
 *     = STATUS HOST DRIVER SENSE DATA                     (hexadecimal; "-" for nothing)
 *
 * Lines without "= " are the kernel's. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <scsi/sg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define NODE "/dev/sg0"
#define DATA_SIZE 8192
#define TIMEOUT_MS (15 * 60 * 1000)

static _Noreturn void off(const char *what)
{
    if (what)
        printf("! %s: %s\n", what, strerror(errno));
    fflush(stdout);
    tcdrain(1);
    sync();
    reboot(RB_POWER_OFF);
    _exit(1);
}

/* /modules/00.ko, 01.ko and so on, in the order in which they depend on each other. */
static void load_modules(void)
{
    char path[32];
    for (int number = 0;; number++) {
        snprintf(path, sizeof path, "/modules/%02d.ko", number);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            return;
        if (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
            off(path);
        close(file);
    }
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* How many bytes the hexadecimal text had, or -1. */
static int decode(const char *text, uint8_t *bytes, int size)
{
    int count = 0;
    for (; *text; text += 2, count++) {
        int high = digit(text[0]), low = high < 0 ? -1 : digit(text[1]);
        if (low < 0 || count == size)
            return -1;
        bytes[count] = (uint8_t)(high << 4 | low);
    }
    return count;
}

static void print_bytes(const uint8_t *bytes, int count)
{
    printf(count ? " " : " -");
    for (int i = 0; i < count; i++)
        printf("%02x", bytes[i]);
}

static void execute(int disk, char *line)
{
    static uint8_t data[DATA_SIZE];
    uint8_t cdb[16], sense[252];
    char *words = line, *cdb_text = strsep(&words, " "), *direction = strsep(&words, " ");
    int cdb_size = decode(cdb_text, cdb, sizeof cdb), size = 0;
    sg_io_hdr_t io = {.interface_id = 'S', .dxfer_direction = SG_DXFER_NONE, .timeout = TIMEOUT_MS};

    if (cdb_size < 0 || !direction)
        off("a line that is no command");
    if (!strcmp(direction, "in")) {
        io.dxfer_direction = SG_DXFER_FROM_DEV;
        size = words ? atoi(words) : -1;
        memset(data, 0, sizeof data);
    } else if (!strcmp(direction, "out")) {
        io.dxfer_direction = SG_DXFER_TO_DEV;
        size = words ? decode(words, data, sizeof data) : -1;
    }
    if (size < 0 || size > DATA_SIZE)
        off("a line with data that do not fit");
    io.cmdp = cdb;
    io.cmd_len = (unsigned char)cdb_size;
    io.sbp = sense;
    io.mx_sb_len = sizeof sense;
    io.dxferp = data;
    io.dxfer_len = (unsigned)size;
    if (ioctl(disk, SG_IO, &io))
        off("SG_IO");
    printf("= %02x %02x %02x", io.status, io.host_status, io.driver_status);
    print_bytes(sense, io.sb_len_wr);
    print_bytes(data, io.dxfer_direction == SG_DXFER_FROM_DEV ? size - io.resid : 0);
    printf("\n");
}

int main(void)
{
    static char line[64 + 2 * DATA_SIZE];
    struct termios terminal;

    mkdir("/dev", 0755);
    if (mount("dev", "/dev", "devtmpfs", 0, ""))
        return 1;
    int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    if (console < 0)
        return 2;
    tcgetattr(console, &terminal);
    cfmakeraw(&terminal);
    terminal.c_cflag |= CLOCAL;
    tcsetattr(console, TCSANOW, &terminal);
    for (int number = 0; number < 3; number++)
        dup2(console, number);

    load_modules();
    /* The bus is scanned in a thread of the kernel's. */
    int disk;
    while ((disk = open(NODE, O_RDWR)) < 0)
        usleep(20000);
    printf("= ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "off"))
            off(NULL);
        execute(disk, line);
        fflush(stdout);
    }
    off("the console");
}
