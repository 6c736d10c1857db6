# ruff: noqa: E501
"""Literal CDBs of every command, typed from SPC-4, SBC-4, SAT-3, SSC-4, SMC-3 and MMC-6.

One line each: CDB | name | LBA | blocks | bytes | class | lane | direction. Numbers are hexadecimal; bytes written as
``xN`` are N logical blocks; ``-`` is 0. The access classes are those of SPC-4 5.13.3 and SBC-4 4.17.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    cdb: bytes
    name: str
    lba: int
    blocks: int
    transfer: int
    transfer_blocks: int
    cls: str
    lane: str
    direction: str

    def bytes_at(self, block_size: int) -> int:
        return self.transfer + self.transfer_blocks * block_size


_TABLE = """
# 6 byte commands
00 00 00 00 00 00 | TEST UNIT READY | - | - | - | always | fast | none
01 00 00 00 00 00 | REWIND | - | - | - | write | fast | none
03 00 00 00 FC 00 | REQUEST SENSE | - | - | FC | always | fast | in
04 00 00 00 00 00 | FORMAT UNIT | - | - | - | write | fast | none
04 18 00 00 00 00 | FORMAT UNIT | - | - | - | write | fast | out
05 00 00 00 00 00 | READ BLOCK LIMITS | - | - | - | always | fast | in
07 00 00 00 00 00 | REASSIGN BLOCKS | - | - | - | write | fast | out
08 12 34 56 78 00 | READ(6) | 123456 | 78 | x78 | read | fast | in
08 FF FF FF 00 00 | READ(6) | 1FFFFF | 100 | x100 | read | fast | in
0A 01 02 03 04 00 | WRITE(6) | 10203 | 4 | x4 | write | fast | out
0A 00 00 00 00 00 | WRITE(6) | 0 | 100 | x100 | write | fast | out
0B 01 02 03 00 00 | SEEK(6) | 10203 | - | - | write | fast | none
0F 00 01 02 03 00 | READ REVERSE(6) | - | - | 10203 | read | fast | in
0F 01 00 00 07 00 | READ REVERSE(6) | - | 7 | x7 | read | fast | in
10 00 00 00 01 00 | WRITE FILEMARKS(6) | - | - | - | write | fast | none
11 00 00 00 01 00 | SPACE(6) | - | - | - | write | fast | none
12 00 00 00 24 00 | INQUIRY | - | - | 24 | always | fast | in
12 01 83 12 34 00 | INQUIRY | - | - | 1234 | always | fast | in
13 00 00 00 10 00 | VERIFY(6) | - | - | - | read | fast | none
13 02 00 00 10 00 | VERIFY(6) | - | - | - | read | fast | out
14 00 00 10 00 00 | RECOVER BUFFERED DATA | - | - | 1000 | read | fast | in
14 01 00 00 03 00 | RECOVER BUFFERED DATA | - | 3 | x3 | read | fast | in
15 11 00 00 18 00 | MODE SELECT(6) | - | - | 18 | write | fast | out
16 00 00 00 00 00 | RESERVE(6) | - | - | - | spc2 | inspect | out
17 00 00 00 00 00 | RELEASE(6) | - | - | - | spc2 | inspect | none
18 00 01 02 03 00 | COPY | - | - | 10203 | write | fast | out
19 01 00 00 00 00 | ERASE(6) | - | - | - | write | fast | none
1A 08 3F 00 FF 00 | MODE SENSE(6) | - | - | FF | read | fast | in
1B 00 00 00 01 00 | START STOP UNIT | - | - | - | always | fast | none
1B 01 00 00 03 00 | START STOP UNIT | - | - | - | always | fast | none
1B 00 00 00 00 00 | START STOP UNIT | - | - | - | write | fast | none
1B 00 00 00 02 00 | START STOP UNIT | - | - | - | write | fast | none
1B 00 00 00 11 00 | START STOP UNIT | - | - | - | write | fast | none
1B 00 00 00 81 00 | START STOP UNIT | - | - | - | write | fast | none
1C 01 02 10 00 00 | RECEIVE DIAGNOSTIC RESULTS | - | - | 1000 | read | fast | in
1D 04 00 00 00 00 | SEND DIAGNOSTIC | - | - | - | write | fast | out
1D 10 00 01 02 00 | SEND DIAGNOSTIC | - | - | 102 | write | fast | out
1E 00 00 00 00 00 | PREVENT ALLOW MEDIUM REMOVAL | - | - | - | always | fast | none
1E 00 00 00 01 00 | PREVENT ALLOW MEDIUM REMOVAL | - | - | - | write | fast | none
1E 00 00 00 02 00 | PREVENT ALLOW MEDIUM REMOVAL | - | - | - | write | fast | none
1E 00 00 00 03 00 | PREVENT ALLOW MEDIUM REMOVAL | - | - | - | write | fast | none

# 10 byte commands
23 00 00 00 00 00 00 00 FC 00 | READ FORMAT CAPACITIES | - | - | FC | always | fast | in
25 00 00 00 00 00 00 00 00 00 | READ CAPACITY(10) | - | - | 8 | always | fast | in
28 00 12 34 56 78 00 9A BC 00 | READ(10) | 12345678 | 9ABC | x9ABC | read | fast | in
28 08 00 00 00 00 00 00 00 00 | READ(10) | - | - | - | read | fast | in
2A 08 12 34 56 78 1F 9A BC 00 | WRITE(10) | 12345678 | 9ABC | x9ABC | write | fast | out
2B 00 00 00 10 00 00 00 00 00 | SEEK(10) | 1000 | - | - | write | fast | none
2C 00 00 00 10 00 00 00 20 00 | ERASE(10) | 1000 | 20 | - | write | fast | none
2E 02 00 00 10 00 00 00 08 00 | WRITE AND VERIFY(10) | 1000 | 8 | x8 | write | fast | out
2F 00 00 00 10 00 00 00 08 00 | VERIFY(10) | 1000 | 8 | - | read | fast | none
2F 02 00 00 10 00 00 00 08 00 | VERIFY(10) | 1000 | 8 | x8 | read | fast | out
2F 04 00 00 10 00 00 00 08 00 | VERIFY(10) | 1000 | 8 | - | read | fast | none
2F 06 00 00 10 00 00 00 08 00 | VERIFY(10) | 1000 | 8 | x1 | read | fast | out
30 00 00 00 00 01 00 00 00 00 | SEARCH DATA HIGH(10) | 1 | - | - | read | fast | out
31 00 00 00 00 01 00 00 00 00 | SEARCH DATA EQUAL(10) | 1 | - | - | read | fast | out
32 00 00 00 00 01 00 00 00 00 | SEARCH DATA LOW(10) | 1 | - | - | read | fast | out
33 00 00 00 00 02 00 00 03 00 | SET LIMITS(10) | 2 | 3 | - | write | fast | none
34 02 00 00 10 00 00 01 00 00 | PRE-FETCH(10) | 1000 | 100 | - | read | fast | none
35 00 00 00 10 00 00 01 00 00 | SYNCHRONIZE CACHE(10) | 1000 | 100 | - | write | fast | none
36 02 00 00 10 00 00 01 00 00 | LOCK UNLOCK CACHE(10) | 1000 | 100 | - | write | fast | none
37 00 0D 00 00 00 00 10 00 00 | READ DEFECT DATA(10) | - | - | 1000 | read | fast | in
39 00 00 01 02 03 00 00 00 00 | COMPARE | - | - | 10203 | read | fast | out
3A 00 00 01 02 03 00 00 00 00 | COPY AND VERIFY | - | - | 10203 | write | fast | out
3B 05 00 00 00 00 01 02 03 00 | WRITE BUFFER | - | - | 10203 | write | fast | out
3C 02 00 00 00 00 01 02 03 00 | READ BUFFER(10) | - | - | 10203 | read | fast | in
3E 00 00 00 00 05 00 02 08 00 | READ LONG(10) | 5 | - | 208 | read | fast | in
3F 00 00 00 00 05 00 02 08 00 | WRITE LONG(10) | 5 | - | 208 | write | fast | out
40 00 00 01 00 00 00 00 10 00 | CHANGE DEFINITION | - | - | 10 | write | fast | out
41 00 00 00 10 00 00 01 00 00 | WRITE SAME(10) | 1000 | 100 | x1 | write | fast | out
41 08 00 00 10 00 00 00 00 00 | WRITE SAME(10) | 1000 | - | x1 | write | fast | out
42 00 00 00 00 00 00 00 18 00 | UNMAP | - | - | 18 | write | fast | out
43 02 00 00 00 00 00 03 24 00 | READ TOC/PMA/ATIP | - | - | 324 | read | fast | in
44 00 00 00 00 00 00 02 00 00 | REPORT DENSITY SUPPORT | - | - | 200 | read | fast | in
45 00 00 00 00 00 00 00 01 00 | PLAY AUDIO(10) | - | - | - | read | fast | none
46 02 00 00 00 00 00 01 00 00 | GET CONFIGURATION | - | - | 100 | always | fast | in
47 00 00 00 02 00 00 03 00 00 | PLAY AUDIO MSF | - | - | - | read | fast | none
48 01 00 00 00 00 00 00 08 00 | SANITIZE (OVERWRITE) | - | - | 8 | write | fast | out
48 02 00 00 00 00 00 00 00 00 | SANITIZE | - | - | - | write | fast | none
48 03 00 00 00 00 00 00 00 00 | SANITIZE | - | - | - | write | fast | none
48 1F 00 00 00 00 00 00 00 00 | SANITIZE | - | - | - | write | fast | none
4A 01 00 00 10 00 00 00 08 00 | GET EVENT STATUS NOTIFICATION | - | - | 8 | always | fast | in
4B 00 00 00 00 00 00 00 01 00 | PAUSE/RESUME | - | - | - | read | fast | none
4C 02 C0 00 00 00 00 00 10 00 | LOG SELECT | - | - | 10 | write | fast | out
4D 00 40 00 00 00 00 02 00 00 | LOG SENSE | - | - | 200 | always | fast | in
4E 00 00 00 00 00 00 00 00 00 | STOP PLAY/SCAN | - | - | - | read | fast | none
50 00 00 00 10 00 00 00 08 00 | XDWRITE(10) | 1000 | 8 | x8 | write | fast | out
51 00 00 00 10 00 00 00 08 00 | XPWRITE(10) | 1000 | 8 | x8 | write | fast | out
52 00 00 00 10 00 00 00 08 00 | XDREAD(10) | 1000 | 8 | x8 | read | fast | in
53 00 00 00 10 00 00 00 08 00 | XDWRITEREAD(10) | 1000 | 8 | x8 | write | fast | both
54 01 00 00 00 00 00 00 08 00 | SEND OPC INFORMATION | - | - | 8 | write | fast | out
55 11 00 00 00 00 00 00 1C 00 | MODE SELECT(10) | - | - | 1C | write | fast | out
56 00 00 00 00 00 00 00 00 00 | RESERVE(10) | - | - | - | spc2 | inspect | out
56 02 00 00 00 00 00 00 08 00 | RESERVE(10) | - | - | 8 | spc2 | inspect | out
57 00 00 00 00 00 00 00 00 00 | RELEASE(10) | - | - | - | spc2 | inspect | out
58 00 00 00 00 00 00 00 00 00 | REPAIR TRACK | - | - | - | write | fast | none
5A 08 3F 00 00 00 00 10 00 00 | MODE SENSE(10) | - | - | 1000 | read | fast | in
5B 00 02 00 00 00 00 00 00 00 | CLOSE TRACK/SESSION | - | - | - | write | fast | none
5C 00 00 00 00 00 00 00 0C 00 | READ BUFFER CAPACITY | - | - | C | read | fast | in
5D 00 00 00 00 00 01 02 03 00 | SEND CUE SHEET | - | - | 10203 | write | fast | out
5E 00 00 00 00 00 00 20 00 00 | PERSISTENT RESERVE IN (READ KEYS) | - | - | 2000 | always | pr | in
5E 01 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE IN (READ RESERVATION) | - | - | 18 | always | pr | in
5E 02 00 00 00 00 00 00 08 00 | PERSISTENT RESERVE IN (REPORT CAPABILITIES) | - | - | 8 | always | pr | in
5E 03 00 00 00 00 00 FF FF 00 | PERSISTENT RESERVE IN (READ FULL STATUS) | - | - | FFFF | always | pr | in
5E 04 00 00 00 00 00 00 08 00 | PERSISTENT RESERVE IN (reserved service action) | - | - | 8 | always | pr | in
5E 1F 00 00 00 00 00 00 08 00 | PERSISTENT RESERVE IN (reserved service action) | - | - | 8 | always | pr | in
5F 00 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (REGISTER) | - | - | 18 | pr | pr | out
5F 01 01 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (RESERVE) | - | - | 18 | pr | pr | out
5F 02 05 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (RELEASE) | - | - | 18 | pr | pr | out
5F 03 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (CLEAR) | - | - | 18 | pr | pr | out
5F 04 05 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (PREEMPT) | - | - | 18 | pr | pr | out
5F 05 06 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (PREEMPT AND ABORT) | - | - | 18 | pr | pr | out
5F 06 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (REGISTER AND IGNORE EXISTING KEY) | - | - | 18 | pr | pr | out
5F 07 00 00 00 01 02 03 04 00 | PERSISTENT RESERVE OUT (REGISTER AND MOVE) | - | - | 1020304 | pr | pr | out
5F 08 07 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (REPLACE LOST RESERVATION) | - | - | 18 | pr | pr | out
5F 09 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (reserved service action) | - | - | 18 | pr | pr | out
5F 14 00 00 00 00 00 00 18 00 | PERSISTENT RESERVE OUT (reserved service action) | - | - | 18 | pr | pr | out

# 32 byte commands: 7F, control, 5 bytes, additional length 18, service action, 20 bytes with LBA at 12 and length at 28
7F0000000000001800010000 0000000000000000 0000000000000000 00000000 | REBUILD(32) | - | - | - | write | fast | out
7F0000000000001800020000 0000000000000000 0000000000000000 00000000 | REGENERATE(32) | - | - | - | write | fast | out
7F0000000000001800030000 0102030405060708 0000000000000000 00000009 | XDREAD(32) | 102030405060708 | 9 | x9 | read | fast | in
7F0000000000001800040000 0102030405060708 0000000000000000 00000009 | XDWRITE(32) | 102030405060708 | 9 | x9 | write | fast | out
7F0000000000001800050000 0000000000000000 0000000000000000 00000000 | XDWRITE EXTENDED(32) | - | - | - | write | fast | out
7F0000000000001800060000 0102030405060708 0000000000000000 00000009 | XPWRITE(32) | 102030405060708 | 9 | x9 | write | fast | out
7F0000000000001800070000 0102030405060708 0000000000000000 00000009 | XDWRITEREAD(32) | 102030405060708 | 9 | x9 | write | fast | both
7F0000000000001800090000 0102030405060708 FFFFFFFFFFFFFFFF 00010002 | READ(32) | 102030405060708 | 10002 | x10002 | read | fast | in
7F00000000000018000A0000 0102030405060708 0000000000000000 00000009 | VERIFY(32) | 102030405060708 | 9 | - | read | fast | none
7F00000000000018000A0200 0102030405060708 0000000000000000 00000009 | VERIFY(32) | 102030405060708 | 9 | x9 | read | fast | out
7F00000000000018000A0600 0102030405060708 0000000000000000 00000009 | VERIFY(32) | 102030405060708 | 9 | x1 | read | fast | out
7F00000000000018000B0000 FFFFFFFFFFFFFFFF 0000000000000000 FFFFFFFF | WRITE(32) | FFFFFFFFFFFFFFFF | FFFFFFFF | xFFFFFFFF | write | fast | out
7F00000000000018000C0200 0102030405060708 0000000000000000 00000009 | WRITE AND VERIFY(32) | 102030405060708 | 9 | x9 | write | fast | out
7F00000000000018000D0000 0102030405060708 0000000000000000 00000009 | WRITE SAME(32) | 102030405060708 | 9 | x1 | write | fast | out
7F00000000000018000D0900 0102030405060708 0000000000000000 00000009 | WRITE SAME(32) | 102030405060708 | 9 | - | write | fast | none
7F00000000000018000E0000 0102030405060708 0000000000000000 00000009 | ORWRITE(32) | 102030405060708 | 9 | x9 | write | fast | out
7F00000000000018000F0000 0102030405060708 0000000000000000 00000009 | WRITE ATOMIC(32) | 102030405060708 | 9 | x9 | write | fast | out
7F0000000000001800100000 0102030405060708 0000000000000000 00000009 | WRITE STREAM(32) | 102030405060708 | 9 | x9 | write | fast | out
7F0000000000001800110000 0000000000000000 0000000000000000 00000009 | WRITE SCATTERED(32) | - | 9 | x9 | write | fast | out
7F0000000000001800120000 0102030405060708 0000000000000000 00000200 | GET LBA STATUS(32) | 102030405060708 | - | 200 | read | fast | in
7F0000000000001818000000 0000000000000000 0000000000000000 00000000 | RECEIVE CREDENTIAL | - | - | - | write | fast | in
7F000000000000041800 0000 | RECEIVE CREDENTIAL | - | - | - | write | fast | in
7F000000000000181FF0 000D 0000000000000000 0000000000000000 00000000 | ATA PASS-THROUGH(32) | - | - | - | write | fast | in
7F000000000000181FF0 0005 0000000000000000 0000000000000000 00000000 | ATA PASS-THROUGH(32) | - | - | - | write | fast | out
7F000000000000181FF0 0028 0000000000000000 0000000000000000 00000000 | ATA PASS-THROUGH(32) | - | - | - | write | fast | none

# 16 byte commands
80 00 00 00 10 00 00 00 00 00 00 00 00 08 00 00 | XDWRITE EXTENDED(16) | 1000 | 8 | x8 | write | fast | out
81 00 00 00 10 00 00 00 00 08 00 00 02 00 00 00 | REBUILD(16) | 1000 | - | 200 | write | fast | out
82 00 00 00 10 00 00 00 00 08 00 00 02 00 00 00 | REGENERATE(16) | 1000 | - | 200 | write | fast | out
83 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 | EXTENDED COPY(LID1) | - | - | 100 | write | fast | out
83 01 00 00 00 00 00 00 00 00 00 00 01 00 00 00 | EXTENDED COPY(LID4) | - | - | 100 | write | fast | out
83 10 00 00 00 00 00 00 00 01 00 00 00 20 00 00 | POPULATE TOKEN | - | - | 20 | read | fast | out
83 11 00 00 00 00 00 00 00 01 00 00 02 28 00 00 | WRITE USING TOKEN | - | - | 228 | write | fast | out
83 1C 00 00 00 01 00 00 00 00 00 00 00 00 00 00 | COPY OPERATION ABORT | - | - | - | write | fast | none
84 00 00 00 00 00 00 00 00 00 00 00 00 0C 00 00 | RECEIVE COPY STATUS(LID1) | - | - | C | always | fast | in
84 01 00 00 00 00 00 00 00 00 00 00 00 0C 00 00 | RECEIVE COPY DATA(LID1) | - | - | C | always | fast | in
84 02 00 00 00 00 00 00 00 00 00 00 00 0C 00 00 | RECEIVE COPY RESULTS (reserved service action) | - | - | C | always | fast | in
84 03 00 00 00 00 00 00 00 00 00 00 04 00 00 00 | RECEIVE COPY OPERATING PARAMETERS | - | - | 400 | always | fast | in
84 04 00 00 00 00 00 00 00 00 00 00 04 00 00 00 | RECEIVE COPY FAILURE DETAILS(LID1) | - | - | 400 | always | fast | in
84 05 00 00 00 01 00 00 00 00 00 00 04 00 00 00 | RECEIVE COPY STATUS(LID4) | - | - | 400 | always | fast | in
84 06 00 00 00 01 00 00 00 00 00 00 04 00 00 00 | RECEIVE COPY DATA(LID4) | - | - | 400 | always | fast | in
84 07 00 00 00 01 00 00 00 00 00 00 04 00 00 00 | RECEIVE ROD TOKEN INFORMATION | - | - | 400 | always | fast | in
84 08 00 00 00 00 00 00 00 00 00 00 04 00 00 00 | REPORT ALL ROD TOKENS | - | - | 400 | always | fast | in
85 08 0E 00 00 00 01 00 00 00 00 00 00 00 EC 00 | ATA PASS-THROUGH(16) | - | - | - | write | fast | in
85 0A 06 00 00 00 01 00 00 00 00 00 00 00 30 00 | ATA PASS-THROUGH(16) | - | - | - | write | fast | out
85 06 20 00 00 00 00 00 00 00 00 00 00 00 E5 00 | ATA PASS-THROUGH(16) | - | - | - | write | fast | none
85 06 28 00 00 00 00 00 00 00 00 00 00 00 E5 00 | ATA PASS-THROUGH(16) | - | - | - | write | fast | none
86 00 00 00 00 00 00 00 00 00 00 00 04 00 00 00 | ACCESS CONTROL IN | - | - | 400 | always | fast | in
87 01 00 00 00 00 00 00 00 00 00 00 00 14 00 00 | ACCESS CONTROL OUT | - | - | 14 | always | fast | out
88 00 01 02 03 04 05 06 07 08 0A 0B 0C 0D 00 00 | READ(16) | 102030405060708 | A0B0C0D | xA0B0C0D | read | fast | in
88 FF FF FF FF FF FF FF FF FF FF FF FF FF FF FF | READ(16) | FFFFFFFFFFFFFFFF | FFFFFFFF | xFFFFFFFF | read | fast | in
89 00 01 02 03 04 05 06 07 08 FF FF FF 03 00 00 | COMPARE AND WRITE | 102030405060708 | 3 | x6 | write | fast | out
8A 08 01 02 03 04 05 06 07 08 0A 0B 0C 0D 00 00 | WRITE(16) | 102030405060708 | A0B0C0D | xA0B0C0D | write | fast | out
8B 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | ORWRITE(16) | 102030405060708 | 8 | x8 | write | fast | out
8C 00 00 00 00 00 00 00 00 00 00 00 10 00 00 00 | READ ATTRIBUTE | - | - | 1000 | read | fast | in
8D 00 00 00 00 00 00 00 00 00 00 00 00 20 00 00 | WRITE ATTRIBUTE | - | - | 20 | write | fast | out
8E 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | WRITE AND VERIFY(16) | 102030405060708 | 8 | x8 | write | fast | out
8F 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | VERIFY(16) | 102030405060708 | 8 | - | read | fast | none
8F 02 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | VERIFY(16) | 102030405060708 | 8 | x8 | read | fast | out
8F 06 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | VERIFY(16) | 102030405060708 | 8 | x1 | read | fast | out
90 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | PRE-FETCH(16) | 102030405060708 | 8 | - | read | fast | none
91 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | SYNCHRONIZE CACHE(16) | 102030405060708 | 8 | - | write | fast | none
92 00 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | LOCK UNLOCK CACHE(16) | 102030405060708 | 8 | - | write | fast | none
93 08 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | WRITE SAME(16) | 102030405060708 | 8 | x1 | write | fast | out
93 09 01 02 03 04 05 06 07 08 00 00 00 08 00 00 | WRITE SAME(16) | 102030405060708 | 8 | - | write | fast | none
94 04 00 00 00 00 00 08 00 00 00 00 00 00 00 00 | ZBC OUT | 80000 | - | - | write | fast | none
95 00 00 00 00 00 00 08 00 00 00 00 10 00 00 00 | ZBC IN | 80000 | - | 1000 | read | fast | in
95 08 00 00 00 00 00 08 00 00 00 00 10 00 00 00 | ZONE ACTIVATE | 80000 | - | 1000 | write | fast | in
96 02 00 00 00 00 00 00 00 00 00 00 10 00 00 00 | WRITE BUFFER(16) | - | - | - | write | fast | out
9A 00 01 02 03 04 05 06 07 08 00 01 00 08 00 00 | WRITE STREAM(16) | 102030405060708 | 8 | x8 | write | fast | out
9B 02 00 00 00 00 00 00 00 00 00 00 10 00 00 00 | READ BUFFER(16) | - | - | 1000 | read | fast | in
9C 00 01 02 03 04 05 06 07 08 00 04 00 08 00 00 | WRITE ATOMIC(16) | 102030405060708 | 8 | x8 | write | fast | out
9E 0F 00 00 00 00 00 00 00 00 00 00 00 20 00 00 | RECEIVE BINDING REPORT | - | - | 20 | read | fast | in
9E 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00 | READ CAPACITY(16) | - | - | 20 | always | fast | in
9E 11 00 00 00 00 00 00 00 05 00 00 02 08 00 00 | READ LONG(16) | 5 | - | 208 | read | fast | in
9E 12 01 02 03 04 05 06 07 08 00 00 02 00 00 00 | GET LBA STATUS(16) | 102030405060708 | - | 200 | read | fast | in
9E 13 00 00 00 00 00 00 00 00 00 00 02 00 00 00 | REPORT REFERRALS | - | - | 200 | always | fast | in
9E 14 20 00 00 00 00 00 00 00 00 00 00 08 00 00 | STREAM CONTROL | - | - | 8 | write | fast | in
9E 15 40 00 00 00 00 00 00 00 00 00 00 00 00 00 | BACKGROUND CONTROL | - | - | - | write | fast | none
9E 16 00 00 00 00 00 00 00 00 00 00 02 00 00 00 | GET STREAM STATUS | - | - | 200 | read | fast | in
9E 17 00 00 00 00 00 00 00 00 00 00 02 00 00 00 | GET PHYSICAL ELEMENT STATUS | - | - | 200 | read | fast | in
9E 18 00 00 00 00 00 00 00 00 00 00 00 01 00 00 | REMOVE ELEMENT AND TRUNCATE | - | - | - | write | fast | none
9E 19 00 00 00 00 00 00 00 00 00 00 00 00 00 00 | RESTORE ELEMENTS AND REBUILD | - | - | - | write | fast | none
9E 1A 00 00 00 00 00 00 00 00 00 00 00 01 00 00 | REMOVE ELEMENT AND MODIFY ZONES | - | - | - | write | fast | none
9F 11 00 00 00 00 00 00 00 05 00 00 02 08 00 00 | WRITE LONG(16) | 5 | - | 208 | write | fast | out
9F 12 00 00 00 01 00 00 00 02 00 00 00 08 00 00 | WRITE SCATTERED(16) | - | 8 | x8 | write | fast | out

# 12 byte commands
A0 00 00 00 00 00 00 00 10 00 00 00 | REPORT LUNS | - | - | 1000 | always | fast | in
A1 08 0E 00 01 00 00 00 00 EC 00 00 | ATA PASS-THROUGH(12) | - | - | - | write | fast | in
A1 0A 06 00 01 00 00 00 00 30 00 00 | ATA PASS-THROUGH(12) | - | - | - | write | fast | out
A1 06 20 00 00 00 00 00 00 E5 00 00 | ATA PASS-THROUGH(12) | - | - | - | write | fast | none
A2 00 00 00 00 00 00 00 02 00 00 00 | SECURITY PROTOCOL IN | - | - | 200 | read | fast | in
A2 01 00 01 80 00 00 00 00 02 00 00 | SECURITY PROTOCOL IN | - | - | 400 | read | fast | in
A3 05 00 00 00 00 00 00 02 00 00 00 | REPORT IDENTIFYING INFORMATION | - | - | 200 | always | fast | in
A3 0A 00 00 00 00 00 00 02 00 00 00 | REPORT TARGET PORT GROUPS | - | - | 200 | always | fast | in
A3 2A 00 00 00 00 00 00 02 00 00 00 | REPORT TARGET PORT GROUPS | - | - | 200 | always | fast | in
A3 0B 00 00 00 00 00 00 02 00 00 00 | REPORT ALIASES | - | - | 200 | always | fast | in
A3 0C 82 5F 00 07 00 00 02 00 00 00 | REPORT SUPPORTED OPERATION CODES | - | - | 200 | read | inspect | in
A3 0D 80 00 00 00 00 00 00 10 00 00 | REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS | - | - | 10 | read | fast | in
A3 0E 00 00 00 00 00 00 02 00 00 00 | REPORT PRIORITY | - | - | 200 | always | fast | in
A3 0F 00 00 00 00 00 00 00 0C 00 00 | REPORT TIMESTAMP | - | - | C | always | fast | in
A3 10 00 00 00 00 00 00 02 00 00 00 | MANAGEMENT PROTOCOL IN | - | - | 200 | read | fast | in
A3 1D 00 00 00 00 00 00 02 00 00 00 | REPORT PROVISIONING INITIALIZATION PATTERN | - | - | 200 | always | fast | in
A4 06 00 00 00 00 00 00 00 10 00 00 | SET IDENTIFYING INFORMATION | - | - | 10 | write | fast | out
A4 0A 00 00 00 00 00 00 00 08 00 00 | SET TARGET PORT GROUPS | - | - | 8 | write | fast | out
A4 0B 00 00 00 00 00 00 00 08 00 00 | CHANGE ALIASES | - | - | 8 | write | fast | out
A4 0C 00 00 00 00 00 00 00 20 00 00 | REMOVE I_T NEXUS | - | - | 20 | write | fast | out
A4 0E 00 00 00 00 00 00 00 08 00 00 | SET PRIORITY | - | - | 8 | write | fast | out
A4 0F 00 00 00 00 00 00 00 0C 00 00 | SET TIMESTAMP | - | - | C | write | fast | out
A4 10 00 00 00 00 00 00 00 08 00 00 | MANAGEMENT PROTOCOL OUT | - | - | 8 | write | fast | out
A5 00 00 00 00 01 00 02 00 00 00 00 | MOVE MEDIUM | - | - | - | write | fast | none
A6 00 00 00 00 01 00 02 00 03 00 00 | EXCHANGE MEDIUM | - | - | - | write | fast | none
A7 00 00 00 00 01 00 02 00 00 00 00 | MOVE MEDIUM ATTACHED | - | - | - | write | fast | none
A8 00 12 34 56 78 0A 0B 0C 0D 00 00 | READ(12) | 12345678 | A0B0C0D | xA0B0C0D | read | fast | in
AA 08 12 34 56 78 0A 0B 0C 0D 00 00 | WRITE(12) | 12345678 | A0B0C0D | xA0B0C0D | write | fast | out
AB 01 00 00 00 00 00 00 01 00 00 00 | READ MEDIA SERIAL NUMBER | - | - | 100 | always | fast | in
AC 00 00 00 00 00 00 00 00 01 00 00 | ERASE(12) / GET PERFORMANCE | - | - | - | write | fast | unknown
AD 00 00 00 00 00 00 00 08 00 00 00 | READ DISC STRUCTURE | - | - | 800 | read | fast | in
AE 02 12 34 56 78 00 00 00 08 00 00 | WRITE AND VERIFY(12) | 12345678 | 8 | x8 | write | fast | out
AF 00 12 34 56 78 00 00 00 08 00 00 | VERIFY(12) | 12345678 | 8 | - | read | fast | none
AF 02 12 34 56 78 00 00 00 08 00 00 | VERIFY(12) | 12345678 | 8 | x8 | read | fast | out
AF 06 12 34 56 78 00 00 00 08 00 00 | VERIFY(12) | 12345678 | 8 | x1 | read | fast | out
B0 00 00 00 00 01 00 00 00 00 00 00 | SEARCH DATA HIGH(12) | 1 | - | - | read | fast | out
B1 00 00 00 00 01 00 00 00 00 00 00 | SEARCH DATA EQUAL(12) | 1 | - | - | read | fast | out
B2 00 00 00 00 01 00 00 00 00 00 00 | SEARCH DATA LOW(12) | 1 | - | - | read | fast | out
B3 00 00 00 00 02 00 00 00 03 00 00 | SET LIMITS(12) | 2 | 3 | - | write | fast | none
B4 00 00 00 00 01 00 01 02 03 00 00 | READ ELEMENT STATUS ATTACHED | - | - | 10203 | read | fast | in
B5 01 00 01 00 00 00 00 02 00 00 00 | SECURITY PROTOCOL OUT | - | - | 200 | write | fast | out
B5 01 00 01 80 00 00 00 00 02 00 00 | SECURITY PROTOCOL OUT | - | - | 400 | write | fast | out
B6 00 00 00 00 00 00 00 00 28 00 00 | SEND VOLUME TAG | - | - | - | write | fast | out
B7 0D 00 00 00 00 00 00 10 00 00 00 | READ DEFECT DATA(12) | - | - | 1000 | read | fast | in
B8 10 00 00 00 FF 01 01 02 03 00 00 | READ ELEMENT STATUS | - | - | 10203 | read | fast | in
B9 00 00 00 02 00 00 03 00 F8 00 00 | READ CD MSF | - | - | - | read | fast | in
BA 00 00 00 00 00 00 00 00 00 00 00 | SCAN | - | - | - | read | fast | none
BB 00 FF FF FF FF 00 00 00 00 00 00 | SET CD SPEED | - | - | - | write | fast | none
BD 00 00 00 00 00 00 00 00 08 00 00 | MECHANISM STATUS | - | - | 8 | read | fast | in
BE 00 00 00 00 10 00 00 01 F8 00 00 | READ CD | 10 | 1 | - | read | fast | in
BF 00 00 00 00 00 00 00 08 00 00 00 | SEND DISC STRUCTURE | - | - | 800 | write | fast | out
"""

# XDWRITE EXTENDED(64) is the one command of 64 bytes.
_SIXTY_FOUR = "7F 000000000000 38 0008" + " 00" * 54 + " | XDWRITE EXTENDED(64) | - | - | - | write | fast | out"


def _number(text: str) -> int:
    return 0 if text == "-" else int(text, 16)


def _case(line: str) -> Case:
    cdb, name, lba, blocks, transfer, cls, lane, direction = (part.strip() for part in line.split("|"))
    in_blocks = transfer.startswith("x")
    return Case(
        bytes.fromhex(cdb),
        name,
        _number(lba),
        _number(blocks),
        0 if in_blocks else _number(transfer),
        _number(transfer[1:]) if in_blocks else 0,
        cls,
        lane,
        direction,
    )


CASES = tuple(_case(line) for line in (*_TABLE.splitlines(), _SIXTY_FOUR) if line.strip() and not line.startswith("#"))
