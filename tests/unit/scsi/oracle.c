/* Reads and writes SCSI parameter data with libiscsi, so that the tests can compare.
 *
 *   oracle in CDB DATA                             print what libiscsi reads in DATA, the answer to CDB
 *   oracle sense DATA                              print what libiscsi reads in sense data
 *   oracle prin SA LENGTH                          print the CDB libiscsi builds
 *   oracle prout SA SCOPE TYPE KEY SAKEY FLAGS     print CDB and parameter list libiscsi builds
 *
 * CDB and DATA are hexadecimal; the output is one NAME=VALUE a line, numbers in decimal.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

static size_t from_hex(const char *text, unsigned char **out)
{
	size_t size = strlen(text) / 2;

	*out = malloc(size + 1);
	for (size_t i = 0; i < size; i++) {
		char digits[3] = {text[2 * i], text[2 * i + 1], 0};

		(*out)[i] = (unsigned char)strtoul(digits, NULL, 16);
	}
	return size;
}

static void print_hex(const char *name, const unsigned char *data, int size)
{
	printf("%s=", name);
	for (int i = 0; i < size; i++)
		printf("%02x", data[i]);
	printf("\n");
}

static int persistent_reserve_in(struct scsi_task *task, int action)
{
	void *answer = scsi_datain_unmarshall(task);

	if (answer == NULL)
		return 1;
	if (action == 0) {
		struct scsi_persistent_reserve_in_read_keys *keys = answer;

		printf("generation=%" PRIu32 "\nadditional_length=%" PRIu32 "\n", keys->prgeneration,
		       keys->additional_length);
		for (int i = 0; i < keys->num_keys; i++)
			printf("key=%" PRIu64 "\n", keys->keys[i]);
	} else if (action == 1) {
		struct scsi_persistent_reserve_in_read_reservation *held = answer;

		printf("generation=%" PRIu32 "\nreserved=%d\n", held->prgeneration, held->reserved != 0);
		if (held->reserved)
			printf("key=%" PRIu64 "\nscope=%d\ntype=%d\n", held->reservation_key, held->pr_scope,
			       held->pr_type);
	} else {
		struct scsi_persistent_reserve_in_report_capabilities *can = answer;

		printf("length=%d\ncrh=%d\nsip_c=%d\natp_c=%d\nptpl_c=%d\ntmv=%d\nallow_commands=%d\nptpl_a=%d\n"
		       "mask=%d\n",
		       can->length, can->crh != 0, can->sip_c != 0, can->atp_c != 0, can->ptpl_c != 0, can->tmv != 0,
		       can->allow_commands, can->ptpl_a != 0, can->persistent_reservation_type_mask);
	}
	return 0;
}

static int supported_opcodes(struct scsi_task *task, int one_command)
{
	void *answer = scsi_datain_unmarshall(task);

	if (answer == NULL)
		return 1;
	if (one_command) {
		struct scsi_report_supported_op_codes_one_command *one = answer;

		printf("ctdp=%d\nsupport=%d\n", one->ctdp != 0, one->support);
		print_hex("cdb_usage", one->cdb_usage_data, one->cdb_length);
		if (one->ctdp)
			printf("nominal=%" PRIu32 "\nrecommended=%" PRIu32 "\n", one->to.nominal_processing_timeout,
			       one->to.recommended_timeout);
		return 0;
	}
	struct scsi_report_supported_op_codes *all = answer;
	for (int i = 0; i < all->num_descriptors; i++) {
		struct scsi_command_descriptor *one = &all->descriptors[i];

		printf("command=%d %d %d %d", one->opcode, one->servactv ? one->sa : -1, one->cdb_len, one->ctdp != 0);
		if (one->ctdp)
			printf(" %" PRIu32 " %" PRIu32, one->to.nominal_processing_timeout,
			       one->to.recommended_timeout);
		printf("\n");
	}
	return 0;
}

static int read_answer(const char *cdb_text, const char *data_text)
{
	unsigned char *cdb, *data;
	int cdb_size = (int)from_hex(cdb_text, &cdb);
	int size = (int)from_hex(data_text, &data);
	struct scsi_task *task = scsi_create_task(cdb_size, cdb, SCSI_XFER_READ, size);

	task->datain.size = size;
	task->datain.data = data;
	if (cdb[0] == 0x5e)
		return persistent_reserve_in(task, cdb[1] & 0x1f);
	if (cdb[0] == 0xa3)
		return supported_opcodes(task, cdb[2] & 0x07);
	if (cdb[0] == 0x9e) {
		struct scsi_readcapacity16 *capacity = scsi_datain_unmarshall(task);

		if (capacity == NULL)
			return 1;
		printf("last_lba=%" PRIu64 "\nblock_size=%" PRIu32 "\np_type=%d\nprot_en=%d\np_i_exponent=%d\n"
		       "physical_exponent=%d\nlbpme=%d\nlbprz=%d\nlowest_aligned_lba=%d\n",
		       capacity->returned_lba, capacity->block_length, capacity->p_type, capacity->prot_en != 0,
		       capacity->p_i_exp, capacity->lbppbe, capacity->lbpme != 0, capacity->lbprz != 0, capacity->lalba);
		return 0;
	}
	if (cdb[0] == 0x25) {
		struct scsi_readcapacity10 *capacity = scsi_datain_unmarshall(task);

		if (capacity == NULL)
			return 1;
		printf("last_lba=%" PRIu32 "\nblock_size=%" PRIu32 "\n", capacity->lba, capacity->block_size);
		return 0;
	}
	if (cdb[0] == 0xa0) {
		struct scsi_reportluns_list *list = scsi_datain_unmarshall(task);

		if (list == NULL)
			return 1;
		for (uint32_t i = 0; i < list->num; i++)
			printf("lun=%d\n", list->luns[i]);
		return 0;
	}
	return 1;
}

static int read_sense(const char *data_text)
{
	unsigned char *data;
	struct scsi_sense sense;

	from_hex(data_text, &data);
	memset(&sense, 0, sizeof sense);
	scsi_parse_sense_data(&sense, data);
	printf("type=%d\nkey=%d\nasc_ascq=%d\nspecific=%d\n", sense.error_type, sense.key, sense.ascq,
	       sense.sense_specific);
	if (sense.sense_specific)
		printf("in_cdb=%d\nbit_valid=%d\nbit=%d\nbyte=%d\n", sense.ill_param_in_cdb, sense.bit_pointer_valid,
		       sense.bit_pointer, sense.field_pointer);
	return 0;
}

static int build_out(char **argv)
{
	int flags = atoi(argv[5]);
	struct scsi_persistent_reserve_out_basic list = {
		.reservation_key = strtoull(argv[3], NULL, 10),
		.service_action_reservation_key = strtoull(argv[4], NULL, 10),
		.spec_i_pt = (flags & 8) != 0,
		.all_tg_pt = (flags & 4) != 0,
		.aptpl = flags & 1,
	};
	struct scsi_task *task = scsi_cdb_persistent_reserve_out(atoi(argv[0]), atoi(argv[1]), atoi(argv[2]), &list);

	print_hex("cdb", task->cdb, task->cdb_size);
	print_hex("list", task->iovector_out.iov[0].iov_base, (int)task->iovector_out.iov[0].iov_len);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "in") == 0)
		return read_answer(argv[2], argv[3]);
	if (argc == 3 && strcmp(argv[1], "sense") == 0)
		return read_sense(argv[2]);
	if (argc == 4 && strcmp(argv[1], "prin") == 0) {
		struct scsi_task *task = scsi_cdb_persistent_reserve_in(atoi(argv[2]), (uint16_t)atoi(argv[3]));

		print_hex("cdb", task->cdb, task->cdb_size);
		return 0;
	}
	if (argc == 8 && strcmp(argv[1], "prout") == 0)
		return build_out(argv + 2);
	return 2;
}
