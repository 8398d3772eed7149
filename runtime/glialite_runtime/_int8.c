/* Integer convolutions in three dimensions, on bytes: what takes nearly all of a network's time.
 *
 * onnxruntime knows fast integer kernels for two dimensions only, and between two of them bytes are moved about seven
 * times. Here a convolution reads a volume as it lies, and writes where the next one reads. The arithmetic is that of
 * onnxruntime's QLinearConv, bit for bit, on every processor: sums of products are whole numbers, and one float
 * multiplication rounds them. Weights stay within ±64, so that two products fit into 16 bits on processors without
 * VNNI.
 *
 * Volumes are uint8 (z, y, x, channel) with strides in bytes; the channel is always contiguous. Padding is part of the
 * volume: its owner leaves a border of zeros. Everything is checked against the buffers' sizes before it is touched.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) || defined(_M_X64)
#define X86 1
#include <immintrin.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define ALWAYS_INLINE __forceinline
#define WITH(instructions)
#else
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define WITH(instructions) __attribute__((target(instructions)))
#endif

#define MOST_VECTORS 4

typedef struct {
    const uint8_t *source; /* the first voxel that the first output reads */
    uint8_t *target;       /* the first output */
    const int8_t *weights; /* groups of output channels × kernel (z, y, x) × channels / 4 × outputs of the group × 4 */
    const int32_t *bias;   /* an output channel */
    const float *scale;    /* an output channel */
    const int64_t *shift;  /* where each vector of output channels goes, in bytes from the voxel's place */
    int64_t source_step[3], target_step[3]; /* bytes from one to the next: z, y, x; the target's of one output */
    int64_t shape[3];                       /* outputs z, y, x */
    int64_t channels, outputs, kernel, stride;
    int64_t run, runs; /* bytes of a row of the kernel that lie together, and how many such pieces it has */
    int32_t zero_point;
} Convolution;

/* How many vectors of output channels are worked on together: threes where they go up, else fours. */
static int group_of(int64_t left)
{
    if (left % 3 == 0)
        return 3;
    return left < MOST_VECTORS ? (int)left : MOST_VECTORS;
}

/* The same on any processor, slowly: what the others are compared with. */
typedef struct {
    int32_t lane[8];
} Portable;
static ALWAYS_INLINE Portable portable_load(const void *p)
{
    Portable v;
    memcpy(&v, p, sizeof v);
    return v;
}
static ALWAYS_INLINE Portable portable_broadcast(const void *p)
{
    Portable v;
    for (int n = 0; n < 8; n++)
        memcpy(&v.lane[n], p, 4);
    return v;
}
static ALWAYS_INLINE Portable portable_dot(Portable sum, Portable a, Portable w)
{
    for (int n = 0; n < 8; n++) {
        uint8_t u[4];
        int8_t s[4];
        memcpy(u, &a.lane[n], 4);
        memcpy(s, &w.lane[n], 4);
        for (int k = 0; k < 4; k++)
            sum.lane[n] += u[k] * s[k];
    }
    return sum;
}
static ALWAYS_INLINE void portable_store(uint8_t *p, Portable sum, const float *scale, int32_t zero_point)
{
    for (int n = 0; n < 8; n++) {
        float value = rintf((float)sum.lane[n] * scale[n]) + (float)zero_point;
        p[n] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
}
#define NAME(x) portable_##x
#define TARGET
#define LANES 8
#define VECTOR Portable
#define LOAD portable_load
#define BROADCAST portable_broadcast
#define DOT portable_dot
#define STORE portable_store
#define WIDEST(n) 4
#include "kernels/convolution.inc"

#ifdef X86
/* x86-64-v2 with SSSE3 and SSE4.1: what numpy needs anyway. */
static ALWAYS_INLINE WITH("sse4.1") __m128i sse_dot(__m128i sum, __m128i a, __m128i w)
{
    return _mm_add_epi32(sum, _mm_madd_epi16(_mm_maddubs_epi16(a, w), _mm_set1_epi16(1)));
}
static ALWAYS_INLINE WITH("sse4.1") __m128i sse_broadcast(const void *p)
{
    int32_t value;
    memcpy(&value, p, 4);
    return _mm_set1_epi32(value);
}
static ALWAYS_INLINE WITH("sse4.1") __m128i sse_rounded(__m128i sum, const float *scale, int32_t zero_point)
{
    /* Beyond 2³¹ the conversion would wrap: cut first, as whole numbers lie between the limits. */
    __m128 value = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_loadu_ps(scale));
    value = _mm_max_ps(_mm_min_ps(value, _mm_set1_ps(512.0f)), _mm_set1_ps(-512.0f));
    return _mm_add_epi32(_mm_cvtps_epi32(value), _mm_set1_epi32(zero_point));
}
static ALWAYS_INLINE WITH("sse4.1") void sse_store(uint8_t *p, __m128i sum, const float *scale, int32_t zero_point)
{
    __m128i value = sse_rounded(sum, scale, zero_point);
    value = _mm_packs_epi32(value, value);
    int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(value, value));
    memcpy(p, &bytes, 4);
}
#define NAME(x) sse_##x
#define TARGET WITH("sse4.1")
#define LANES 4
#define VECTOR __m128i
#define LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define BROADCAST sse_broadcast
#define DOT sse_dot
#define STORE sse_store
#define WIDEST(n) ((n) == 4 ? 2 : (n) == 3 ? 3 : (n) == 2 ? 4 : 8)
#include "kernels/convolution.inc"

static ALWAYS_INLINE WITH("avx2") __m256i avx2_dot(__m256i sum, __m256i a, __m256i w)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, w), _mm256_set1_epi16(1)));
}
static ALWAYS_INLINE WITH("avx2") __m256i avx2_broadcast(const void *p)
{
    int32_t value;
    memcpy(&value, p, 4);
    return _mm256_set1_epi32(value);
}
static ALWAYS_INLINE WITH("avx2") void avx2_store(uint8_t *p, __m256i sum, const float *scale, int32_t zero_point)
{
    __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(scale));
    value = _mm256_max_ps(_mm256_min_ps(value, _mm256_set1_ps(512.0f)), _mm256_set1_ps(-512.0f));
    __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(value), _mm256_set1_epi32(zero_point));
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(half, half));
}
#define NAME(x) avx2_##x
#define TARGET WITH("avx2")
#define LANES 8
#define VECTOR __m256i
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define BROADCAST avx2_broadcast
#define DOT avx2_dot
#define STORE avx2_store
#define WIDEST(n) ((n) == 4 ? 2 : (n) == 3 ? 3 : (n) == 2 ? 4 : 8)
#include "kernels/convolution.inc"

/* VNNI: four products and their sum in one instruction; 32 registers. */
#define NAME(x) vnni_##x
#define TARGET WITH("avx2,avx512f,avx512bw,avx512vl,avx512vnni")
#define LANES 8
#define VECTOR __m256i
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define BROADCAST avx2_broadcast
#define DOT _mm256_dpbusd_epi32
#define STORE avx2_store
#define WIDEST(n) ((n) == 4 ? 6 : 8)
#include "kernels/convolution.inc"
#endif

/* target = table[a][b], byte by byte, over volumes (z, y, x, channel) with steps of their own. */
typedef struct {
    const uint8_t *a, *b, *table;
    uint8_t *target;
    int64_t a_step[3], b_step[3], target_step[3], shape[3], channels;
} Combination;

static void combine(const Combination *c, int64_t first, int64_t last)
{
    for (int64_t z = first; z < last; z++)
        for (int64_t y = 0; y < c->shape[1]; y++)
            for (int64_t x = 0; x < c->shape[2]; x++) {
                const uint8_t *a = c->a + z * c->a_step[0] + y * c->a_step[1] + x * c->a_step[2];
                const uint8_t *b = c->b + z * c->b_step[0] + y * c->b_step[1] + x * c->b_step[2];
                uint8_t *target = c->target + z * c->target_step[0] + y * c->target_step[1] + x * c->target_step[2];
                for (int64_t n = 0; n < c->channels; n++)
                    target[n] = c->table[a[n] * 256 + b[n]];
            }
}

/* The image, four float sequences a plane, as bytes in blocks of 2 × 2 × 2 voxels: round(value / scale) + zero point.
 * Blocks that reach beyond the image are left there as they are. */
typedef struct {
    const float *source; /* (z, 4, y, x) */
    uint8_t *target;     /* (blocks z, y, x, 32): voxels z, y, x of the block, then sequences */
    int64_t source_shape[3], target_shape[3];
    float scale;
    int32_t zero_point;
} Quantisation;

static uint8_t quantised(float value, const Quantisation *q)
{
    value = rintf(value / q->scale) + (float)q->zero_point;
    return (uint8_t)(value > 255 ? 255 : value > 0 ? value : 0);
}

#ifdef X86
static WITH("sse4.1") __m128i four_quantised(const float *p, __m128 scale, __m128i zero_point)
{
    __m128 value = _mm_div_ps(_mm_loadu_ps(p), scale);
    value = _mm_max_ps(_mm_min_ps(value, _mm_set1_ps(512.0f)), _mm_set1_ps(-512.0f));
    return _mm_add_epi32(_mm_cvtps_epi32(value), zero_point);
}

/* Columns 0 … `columns`, a multiple of 4: two blocks at once. */
static WITH("sse4.1") void quantise_row(const float *source, int64_t plane, int64_t columns, const Quantisation *q,
                                        uint8_t *target)
{
    const __m128 scale = _mm_set1_ps(q->scale);
    const __m128i zero_point = _mm_set1_epi32(q->zero_point);
    const __m128i by_voxel = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int64_t x = 0; x < columns; x += 4) {
        const __m128i first = _mm_packs_epi32(four_quantised(source + x, scale, zero_point),
                                              four_quantised(source + plane + x, scale, zero_point));
        const __m128i second = _mm_packs_epi32(four_quantised(source + 2 * plane + x, scale, zero_point),
                                               four_quantised(source + 3 * plane + x, scale, zero_point));
        const __m128i bytes = _mm_shuffle_epi8(_mm_packus_epi16(first, second), by_voxel);
        _mm_storel_epi64((__m128i *)(target + x / 2 * 32), bytes);
        _mm_storel_epi64((__m128i *)(target + x / 2 * 32 + 32), _mm_srli_si128(bytes, 8));
    }
}
#endif

static void quantise(const Quantisation *q, int vectors, int64_t first, int64_t last)
{
    const int64_t *shape = q->source_shape, plane = shape[1] * shape[2];
    for (int64_t z = 2 * first; z < 2 * last && z < shape[0]; z++)
        for (int64_t y = 0; y < shape[1]; y++) {
            const float *source = q->source + z * 4 * plane + y * shape[2];
            uint8_t *target =
                q->target + ((z / 2 * q->target_shape[1] + y / 2) * q->target_shape[2]) * 32 + (z % 2 * 2 + y % 2) * 8;
            int64_t x = 0;
#ifdef X86
            if (vectors) {
                x = shape[2] / 4 * 4;
                quantise_row(source, plane, x, q, target);
            }
#endif
            for (; x < shape[2]; x++)
                for (int sequence = 0; sequence < 4; sequence++)
                    target[x / 2 * 32 + x % 2 * 4 + sequence] = quantised(source[sequence * plane + x], q);
        }
}

/* Blocks of 2 × 2 × 2 voxels of three regions, (z, y, x, region, 8), as volumes (region, z, y, x); with `first`, whether
 * a level is at least that of its region. */
typedef struct {
    const uint8_t *source;
    uint8_t *target;
    const int32_t *first;
    int64_t blocks[3], shape[3];
} Unpacking;

enum { BLOCK_STEP = 24 };

#ifdef X86
static __m128i two_blocks(const uint8_t *p)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)p), _mm_loadl_epi64((const __m128i *)(p + BLOCK_STEP)));
}

/* Eight blocks to 16 voxels of each of the four rows (z, y) that they cover; returns how many blocks are done. */
static int64_t unpack_rows(const uint8_t *blocks, uint8_t *const rows[4], int64_t columns)
{
    int64_t x = 0;
    for (; 2 * x + 16 <= columns; x += 8) {
        const uint8_t *in = blocks + x * BLOCK_STEP;
        const __m128i a = two_blocks(in), b = two_blocks(in + 2 * BLOCK_STEP);
        const __m128i c = two_blocks(in + 4 * BLOCK_STEP), d = two_blocks(in + 6 * BLOCK_STEP);
        /* Pairs of voxels are 16-bit words; a holds the rows 0 1 2 3 of block 0, then those of block 1. */
        const __m128i ab0 = _mm_unpacklo_epi16(a, b), ab1 = _mm_unpackhi_epi16(a, b);
        const __m128i cd0 = _mm_unpacklo_epi16(c, d), cd1 = _mm_unpackhi_epi16(c, d);
        const __m128i ab01 = _mm_unpacklo_epi16(ab0, ab1), ab23 = _mm_unpackhi_epi16(ab0, ab1);
        const __m128i cd01 = _mm_unpacklo_epi16(cd0, cd1), cd23 = _mm_unpackhi_epi16(cd0, cd1);
        _mm_storeu_si128((__m128i *)(rows[0] + 2 * x), _mm_unpacklo_epi64(ab01, cd01));
        _mm_storeu_si128((__m128i *)(rows[1] + 2 * x), _mm_unpackhi_epi64(ab01, cd01));
        _mm_storeu_si128((__m128i *)(rows[2] + 2 * x), _mm_unpacklo_epi64(ab23, cd23));
        _mm_storeu_si128((__m128i *)(rows[3] + 2 * x), _mm_unpackhi_epi64(ab23, cd23));
    }
    return x;
}
#endif

static void unpack(const Unpacking *u, int64_t from, int64_t to)
{
    const int64_t *shape = u->shape, columns = shape[2];
    for (int region = 0; region < 3; region++)
        for (int64_t z = from; z < to; z++)
            for (int64_t y = 0; y < u->blocks[1]; y++) {
                const uint8_t *blocks =
                    u->source + ((z * u->blocks[1] + y) * u->blocks[2]) * BLOCK_STEP + region * 8;
                uint8_t *rows[4];
                int there = 0;
                for (int row = 0; row < 4; row++) {
                    const int64_t at_z = 2 * z + row / 2, at_y = 2 * y + row % 2;
                    rows[row] = NULL;
                    if (at_z < shape[0] && at_y < shape[1]) {
                        rows[row] = u->target + ((region * shape[0] + at_z) * shape[1] + at_y) * columns;
                        there++;
                    }
                }
                int64_t done = 0;
#ifdef X86
                if (there == 4)
                    done = unpack_rows(blocks, rows, columns);
#endif
                for (int row = 0; row < 4; row++) {
                    if (!rows[row])
                        continue;
                    for (int64_t x = 2 * done; x < columns; x++)
                        rows[row][x] = blocks[x / 2 * BLOCK_STEP + row * 2 + x % 2];
                    if (!u->first)
                        continue;
                    const int32_t first = u->first[region];
                    const uint8_t least = (uint8_t)(first > 255 ? 255 : first), possible = first <= 255;
                    for (int64_t x = 0; x < columns; x++)
                        rows[row][x] = (rows[row][x] >= least) & possible;
                }
            }
}

typedef void (*Convolve)(const Convolution *, int64_t, int64_t);
typedef struct {
    const char *name;
    int lanes;
    Convolve convolve;
} Kind;

/* What this processor can do, the fastest first. */
static int kinds_here(Kind *kinds)
{
    int count = 0;
#if defined(X86) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        kinds[count++] = (Kind){"vnni", 8, vnni_convolve};
    if (__builtin_cpu_supports("avx2"))
        kinds[count++] = (Kind){"avx2", 8, avx2_convolve};
    if (__builtin_cpu_supports("sse4.1"))
        kinds[count++] = (Kind){"sse", 4, sse_convolve};
#endif
    kinds[count++] = (Kind){"portable", 8, portable_convolve};
    return count;
}

static int find_kind(const char *name, Kind *found)
{
    Kind kinds[4];
    const int count = kinds_here(kinds);
    for (int n = 0; n < count; n++)
        if (!strcmp(kinds[n].name, name)) {
            *found = kinds[n];
            return 1;
        }
    PyErr_Format(PyExc_ValueError, "this processor has no kernels named %s", name);
    return 0;
}

static PyObject *py_kinds(PyObject *self, PyObject *nothing)
{
    Kind kinds[4];
    const int count = kinds_here(kinds);
    PyObject *list = PyList_New(0);
    (void)self, (void)nothing;
    for (int n = 0; list && n < count; n++) {
        PyObject *pair = Py_BuildValue("(si)", kinds[n].name, kinds[n].lanes);
        if (!pair || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

/* How many vectors each group of output channels has: the order of the weights. */
static PyObject *py_groups(PyObject *self, PyObject *args)
{
    long long left;
    (void)self;
    if (!PyArg_ParseTuple(args, "L", &left))
        return NULL;
    PyObject *list = PyList_New(0);
    while (list && left > 0) {
        const int group = group_of(left);
        PyObject *number = PyLong_FromLong(group);
        if (!number || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
        left -= group;
    }
    return list;
}

enum { LARGEST = 1 << 30 };

/* Whether everything that a convolution reads and writes lies in its buffers. `n` are the settings, all ≥ 0. */
static int fits(const int64_t *n, const Py_buffer *buffers, int lanes)
{
    const Py_buffer *source = buffers, *target = buffers + 1, *weights = buffers + 2, *bias = buffers + 3;
    const Py_buffer *scale = buffers + 4, *shift = buffers + 5;
    const int64_t channels = n[11], outputs = n[12], kernel = n[13], stride = n[14];
    int64_t read = n[0] + channels, write = n[4] + lanes, furthest = 0;
    for (int axis = 0; axis < 3; axis++) {
        if (n[8 + axis] < 1)
            return 0;
        read += ((n[8 + axis] - 1) * stride + kernel - 1) * n[1 + axis];
        write += (n[8 + axis] - 1) * n[5 + axis];
    }
    if (channels < 4 || channels % 4 || outputs < lanes || outputs % lanes || kernel < 1 || kernel > 8 || stride < 1 ||
        stride > 8 || n[15] > 255 || n[16] > n[17] || n[17] > n[8])
        return 0;
    if (shift->len != outputs / lanes * 8 || bias->len != outputs * 4 || scale->len != outputs * 4 ||
        weights->len != outputs * channels * kernel * kernel * kernel)
        return 0;
    for (int64_t v = 0; v < outputs / lanes; v++) {
        const int64_t place = ((const int64_t *)shift->buf)[v];
        if (place < 0 || place > LARGEST)
            return 0;
        furthest = place > furthest ? place : furthest;
    }
    return read <= source->len && write + furthest <= target->len;
}

static int in_range(const Py_buffer *settings, int count)
{
    if (settings->len != count * (Py_ssize_t)sizeof(int64_t))
        return 0;
    for (int n = 0; n < count; n++)
        if (((const int64_t *)settings->buf)[n] < 0 || ((const int64_t *)settings->buf)[n] > LARGEST)
            return 0;
    return 1;
}

static PyObject *finish(Py_buffer *buffers, int count, int held)
{
    for (int n = 0; n < count; n++)
        PyBuffer_Release(&buffers[n]);
    if (!held) {
        PyErr_SetString(PyExc_ValueError, "the settings and the buffers' sizes do not fit together");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *py_convolve(PyObject *self, PyObject *args)
{
    const char *name;
    Py_buffer b[7];
    Kind kind;
    (void)self;
    if (!PyArg_ParseTuple(args, "sy*w*y*y*y*y*y*", &name, &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &b[6]))
        return NULL;
    if (!find_kind(name, &kind)) {
        for (int n = 0; n < 7; n++)
            PyBuffer_Release(&b[n]);
        return NULL;
    }
    const int64_t *n = b[6].buf;
    if (!in_range(&b[6], 18) || !fits(n, b, kind.lanes))
        return finish(b, 7, 0);
    Convolution c = {.source = (const uint8_t *)b[0].buf + n[0],
                     .target = (uint8_t *)b[1].buf + n[4],
                     .weights = b[2].buf,
                     .bias = b[3].buf,
                     .scale = b[4].buf,
                     .shift = b[5].buf,
                     .channels = n[11],
                     .outputs = n[12],
                     .kernel = n[13],
                     .stride = n[14],
                     .zero_point = (int32_t)n[15]};
    for (int axis = 0; axis < 3; axis++) {
        c.source_step[axis] = n[1 + axis];
        c.target_step[axis] = n[5 + axis];
        c.shape[axis] = n[8 + axis];
    }
    c.runs = c.source_step[2] == c.channels ? 1 : c.kernel;
    c.run = c.kernel * c.channels / c.runs;
    Py_BEGIN_ALLOW_THREADS
    kind.convolve(&c, n[16], n[17]);
    Py_END_ALLOW_THREADS
    return finish(b, 7, 1);
}

/* (a, b, target, table; origin and steps of each volume, shape, channels, first, last) */
static PyObject *py_combine(PyObject *self, PyObject *args)
{
    Py_buffer b[5];
    (void)self;
    if (!PyArg_ParseTuple(args, "y*y*w*y*y*", &b[0], &b[1], &b[2], &b[3], &b[4]))
        return NULL;
    const int64_t *n = b[4].buf;
    int held = in_range(&b[4], 18) && b[3].len == 256 * 256 && n[16] <= n[17] && n[17] <= n[12];
    for (int volume = 0; held && volume < 3; volume++) {
        int64_t end = n[4 * volume] + n[15];
        for (int axis = 0; axis < 3; axis++) {
            held = held && n[12 + axis] >= 1;
            end += (n[12 + axis] - 1) * n[4 * volume + 1 + axis];
        }
        held = held && end <= b[volume].len;
    }
    if (!held)
        return finish(b, 5, 0);
    Combination c = {.a = (const uint8_t *)b[0].buf + n[0],
                     .b = (const uint8_t *)b[1].buf + n[4],
                     .target = (uint8_t *)b[2].buf + n[8],
                     .table = b[3].buf,
                     .channels = n[15]};
    for (int axis = 0; axis < 3; axis++) {
        c.a_step[axis] = n[1 + axis];
        c.b_step[axis] = n[5 + axis];
        c.target_step[axis] = n[9 + axis];
        c.shape[axis] = n[12 + axis];
    }
    Py_BEGIN_ALLOW_THREADS
    combine(&c, n[16], n[17]);
    Py_END_ALLOW_THREADS
    return finish(b, 5, 1);
}

/* (image, blocks, shapes: image z, y, x, blocks z, y, x, zero point, first, last, with vectors; scale) */
static PyObject *py_quantise(PyObject *self, PyObject *args)
{
    Py_buffer b[3];
    float scale;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*y*f", &b[0], &b[1], &b[2], &scale))
        return NULL;
    const int64_t *n = b[2].buf;
    int held = in_range(&b[2], 10) && n[0] * n[1] * n[2] <= LARGEST && n[3] * n[4] * n[5] <= LARGEST;
    held = held && b[0].len == n[0] * n[1] * n[2] * 16 && b[1].len == n[3] * n[4] * n[5] * 32;
    for (int axis = 0; held && axis < 3; axis++)
        held = n[axis] <= 2 * n[3 + axis];
    if (!held || n[6] > 255 || n[7] > n[8] || n[8] > n[3])
        return finish(b, 3, 0);
    const Quantisation q = {b[0].buf, b[1].buf, {n[0], n[1], n[2]}, {n[3], n[4], n[5]}, scale, (int32_t)n[6]};
    Py_BEGIN_ALLOW_THREADS
    quantise(&q, (int)n[9], n[7], n[8]);
    Py_END_ALLOW_THREADS
    return finish(b, 3, 1);
}

/* (blocks, volumes, shapes: blocks z, y, x, volumes z, y, x, first, last; first level of each region, or nothing) */
static PyObject *py_unpack(PyObject *self, PyObject *args)
{
    Py_buffer b[4];
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*y*y*", &b[0], &b[1], &b[2], &b[3]))
        return NULL;
    const int64_t *n = b[2].buf;
    int held = in_range(&b[2], 8) && n[0] * n[1] * n[2] <= LARGEST && n[3] * n[4] * n[5] <= LARGEST;
    held = held && b[0].len == n[0] * n[1] * n[2] * 24 && b[1].len == n[3] * n[4] * n[5] * 3;
    for (int axis = 0; held && axis < 3; axis++)
        held = n[3 + axis] <= 2 * n[axis];
    if (!held || n[6] > n[7] || n[7] > n[0] || (b[3].len && b[3].len != 12))
        return finish(b, 4, 0);
    const Unpacking u = {
        b[0].buf, b[1].buf, b[3].len ? b[3].buf : NULL, {n[0], n[1], n[2]}, {n[3], n[4], n[5]}};
    Py_BEGIN_ALLOW_THREADS
    unpack(&u, n[6], n[7]);
    Py_END_ALLOW_THREADS
    return finish(b, 4, 1);
}

static PyMethodDef methods[] = {
    {"kinds", py_kinds, METH_NOARGS, "Names and lanes of the kernels that this processor has, the fastest first."},
    {"groups", py_groups, METH_VARARGS, "How many vectors each group of output channels has: the order of the weights."},
    {"convolve", py_convolve, METH_VARARGS, "Convolve some planes of a volume; see the source."},
    {"combine", py_combine, METH_VARARGS, "Look up pairs of bytes of two volumes in a table; see the source."},
    {"quantise", py_quantise, METH_VARARGS, "Turn an image into bytes in blocks of 2 x 2 x 2 voxels; see the source."},
    {"unpack", py_unpack, METH_VARARGS, "Turn blocks of output into volumes; see the source."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_int8", "Integer convolutions in three dimensions.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__int8(void)
{
    return PyModule_Create(&module);
}
