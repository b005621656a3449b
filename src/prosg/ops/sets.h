/* Includes EACH_SET once for each instruction set, with these defined:
 *
 *     SET, BYTES     its name, and the size of its registers
 *     TARGET         goes before every function: the set that it is compiled for
 *
 * The includer defines WIDEST, the features of the widest set, and, where there is a choice at run time, DISPATCH.
 */
#define SET plain
#define TARGET
#define BYTES 16
#include EACH_SET
#undef SET
#undef TARGET
#undef BYTES
#ifdef DISPATCH
#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define BYTES 32
#include EACH_SET
#undef SET
#undef TARGET
#undef BYTES
#define SET avx512
#define TARGET __attribute__((target(WIDEST)))
#define BYTES 64
#include EACH_SET
#undef SET
#undef TARGET
#undef BYTES
#endif
#undef EACH_SET
#undef WIDEST
