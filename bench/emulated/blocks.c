/* A plugin of QEMU's user emulation: how often each block of instructions runs between two marks.
 *
 * A mark is a system call with a number that Linux does not have; its first argument is a label. Label
 * 0 sets all counts back to zero; any other writes them to the file as a section of that label, then
 * sets them back. It appends, so that who has read a section may cut the file. A section is the line `section LABEL`, then one line a block that has run:
 * the runs, and its instructions as hexadecimal words.
 *
 * QEMU's own header is not packaged by Debian: version 1 of its interface, as far as it is used here,
 * is declared below (https://www.qemu.org/docs/master/devel/tcg-plugins.html).
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct {
    const char *target_arch;
    struct {
        int min, cur;
    } version;
    bool system_emulation;
    struct {
        int smp_vcpus, max_vcpus;
    } system;
} qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*translation_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translation_callback);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *,
                                              uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))
#define MARK 0x7ec0
#define OPTION "out="

EXPORTED int qemu_plugin_version = 1;

struct block {
    struct block *next;
    uint64_t runs;
    size_t count;
    uint32_t words[];
};

static struct block *blocks;
static FILE *out;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(tb);
    struct block *block = malloc(sizeof *block + count * sizeof block->words[0]);
    if (!block) abort();
    block->runs = 0;
    block->count = count;
    for (size_t i = 0; i < count; i++)
        memcpy(&block->words[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
    /* Threads translate at the same time. */
    do
        block->next = blocks;
    while (!__sync_bool_compare_and_swap(&blocks, block->next, block));
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t label, uint64_t a2,
                   uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK) return;
    if (label) fprintf(out, "section %" PRIu64 "\n", label);
    for (struct block *block = blocks; block; block = block->next) {
        if (label && block->runs) {
            fprintf(out, "%" PRIu64 " ", block->runs);
            for (size_t i = 0; i < block->count; i++) fprintf(out, "%08" PRIx32, block->words[i]);
            fputc('\n', out);
        }
        block->runs = 0;
    }
    fflush(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                 char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], OPTION, strlen(OPTION))) out = fopen(argv[i] + strlen(OPTION), "a");
    if (!out) return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
