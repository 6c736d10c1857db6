/*
 * The floors of CDB parsing: what C does for a stream of data commands when nothing else is asked of it.
 *
 * floor_decode fills the same 32 byte struct as _fastpath.cdb from a table indexed by the operation code alone,
 * without a branch: no service actions, no bits of the CDB that change the row, no bounds check. It is less work than
 * the parser does, so its time cannot be reached for nothing.
 * floor_fields only sums LBA and length up, storing nothing. floor_switch is the decoder most people would write.
 */
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct parsed {
    uint64_t lba;
    uint64_t bytes;
    uint32_t blocks;
    uint16_t cdb_length;
    uint16_t service_action;
    uint8_t opcode, cls, lane, direction, valid, unknown;
    uint16_t reserved;
};

struct row {
    uint64_t lba_mask;
    uint32_t length_mask;
    uint8_t lba_offset, lba_shift, length_offset, bias;
    uint8_t unit;
    /* The tail of struct parsed, copied in one piece before blocks is set. */
    uint32_t blocks;
    uint16_t cdb_length;
    uint16_t service_action;
    uint8_t opcode, cls, lane, direction, valid, unknown;
    uint16_t reserved;
};

static struct row rows[256];

static void set(uint8_t opcode, uint8_t length, uint8_t cls, uint8_t direction)
{
    struct row *row = &rows[opcode];
    memset(row, 0, sizeof *row);
    row->opcode = opcode;
    row->cdb_length = length;
    row->cls = cls;
    row->direction = direction;
    row->valid = 1;
}

static void set_data(uint8_t opcode, uint8_t length, uint8_t cls, uint8_t direction)
{
    struct row *row = &rows[opcode];
    set(opcode, length, cls, direction);
    row->unit = 1;
    switch (length) {
    case 6:
        row->lba_shift = 32, row->lba_mask = 0x1FFFFF, row->length_offset = 1, row->length_mask = 0xFF, row->bias = 1;
        break;
    case 10:
        row->lba_shift = 16, row->lba_mask = 0xFFFFFFFF, row->length_offset = 5, row->length_mask = 0xFFFF;
        break;
    case 12:
        row->lba_shift = 16, row->lba_mask = 0xFFFFFFFF, row->length_offset = 6, row->length_mask = 0xFFFFFFFF;
        break;
    default:
        row->lba_offset = 2, row->lba_mask = UINT64_MAX, row->length_offset = 10, row->length_mask = 0xFFFFFFFF;
    }
}

void floor_init(void)
{
    static const uint8_t reads[][2] = {{0x08, 6}, {0x28, 10}, {0xA8, 12}, {0x88, 16}};
    static const uint8_t writes[][2] = {{0x0A, 6}, {0x2A, 10}, {0xAA, 12}, {0x8A, 16}};
    for (int i = 0; i < 4; i++) {
        set_data(reads[i][0], reads[i][1], 1, 1);
        set_data(writes[i][0], writes[i][1], 2, 2);
    }
    set(0x00, 6, 0, 0); /* TEST UNIT READY */
}

static inline uint32_t load32(const uint8_t *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return be32toh(word);
}

static inline uint64_t load64(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return be64toh(word);
}

__attribute__((noipa)) void floor_decode(const uint8_t *cdbs, size_t stride, size_t count, uint32_t block_size, struct parsed *out)
{
    const uint64_t scale[2] = {0, block_size};
    for (size_t i = 0; i < count; i++, cdbs += stride) {
        const struct row *row = &rows[cdbs[0]];
        uint64_t lba = (load64(cdbs + row->lba_offset) >> row->lba_shift) & row->lba_mask;
        uint32_t length = ((load32(cdbs + row->length_offset) - row->bias) & row->length_mask) + row->bias;
        memcpy(&out[i].blocks, &row->blocks, 16);
        out[i].lba = lba;
        out[i].bytes = length * scale[row->unit];
        out[i].blocks = length;
    }
}

void floor_repeat(const uint8_t *cdbs, size_t stride, size_t count, uint32_t block_size, struct parsed *out, size_t calls)
{
    for (size_t i = 0; i < calls; i++)
        floor_decode(cdbs, stride, count, block_size, out);
}

uint64_t floor_fields(const uint8_t *cdbs, size_t stride, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++, cdbs += stride) {
        const struct row *row = &rows[cdbs[0]];
        sum += (load64(cdbs + row->lba_offset) >> row->lba_shift) & row->lba_mask;
        sum += ((load32(cdbs + row->length_offset) - row->bias) & row->length_mask) + row->bias;
    }
    return sum;
}

void floor_switch(const uint8_t *cdbs, size_t stride, size_t count, uint32_t block_size, struct parsed *out)
{
    for (size_t i = 0; i < count; i++, cdbs += stride, out++) {
        memset(out, 0, sizeof *out);
        out->opcode = cdbs[0];
        out->valid = 1;
        switch (cdbs[0]) {
        case 0x08:
        case 0x0A:
            out->lba = load32(cdbs) & 0x1FFFFF;
            out->blocks = cdbs[4] ? cdbs[4] : 256;
            out->cdb_length = 6;
            break;
        case 0x28:
        case 0x2A:
            out->lba = load32(cdbs + 2);
            out->blocks = load32(cdbs + 5) & 0xFFFF;
            out->cdb_length = 10;
            break;
        case 0xA8:
        case 0xAA:
            out->lba = load32(cdbs + 2);
            out->blocks = load32(cdbs + 6);
            out->cdb_length = 12;
            break;
        case 0x88:
        case 0x8A:
            out->lba = load64(cdbs + 2);
            out->blocks = load32(cdbs + 10);
            out->cdb_length = 16;
            break;
        default:
            out->cdb_length = 6;
        }
        switch (cdbs[0]) {
        case 0x08:
        case 0x28:
        case 0xA8:
        case 0x88:
            out->cls = out->direction = 1;
            break;
        case 0x0A:
        case 0x2A:
        case 0xAA:
        case 0x8A:
            out->cls = out->direction = 2;
            break;
        }
        out->bytes = (uint64_t)out->blocks * block_size;
    }
}
