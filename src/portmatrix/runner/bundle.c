/* What is to be run: an artifact and its samples, from a bundle's manifest or from a request. */
#include "bundle.h"

#include <string.h>

#include "system.h"

/* A manifest is a few kilobytes; a larger one is none. */
enum { MANIFEST_BYTES = 16 << 20, SCHEMA_VERSION = 1 };
static const int64_t MOST_CALLS = 1 << 30;

/* Where something is read from, for messages. */
typedef struct Source {
    Arena *arena;
    const char *name;
    Failure *failure;
} Source;

static bool wrong(const Source *source, const char *member, const char *expected) {
    return fail(source->failure, "%s: '%s' is missing or no %s", source->name, member, expected);
}

/* Whether a name leads to something inside its folder, on every system. */
static bool is_inside(const char *name) {
    if (*name == '\0' || strpbrk(name, "\\:") != NULL) {
        return false;
    }
    for (const char *part = name;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length <= 2 && strncmp(part, "..", length) == 0)) {
            return false;
        }
        part += length;
        if (*part == '\0') {
            return true;
        }
    }
}

static const char *path_in(const Source *source, const char *folder, const char *name) {
    if (!is_inside(name)) {
        fail(source->failure, "%s: '%s' is no name of a file inside the bundle", source->name, name);
        return NULL;
    }
    const char *path = arena_format(source->arena, "%s/%s", folder, name);
    if (path == NULL) {
        fail_of_memory(source->failure);
    }
    return path;
}

static bool read_names(const Source *source, const Json *tensors, const char *member, Names *names) {
    if (tensors == NULL || tensors->kind != JSON_ARRAY) {
        return wrong(source, member, "list of tensors");
    }
    names->names = arena_take(source->arena, tensors->count, sizeof *names->names);
    if (names->names == NULL) {
        return fail_of_memory(source->failure);
    }
    for (const Json *tensor = tensors->first; tensor != NULL; tensor = tensor->next) {
        const char *name = json_string(json_member(tensor, "name"));
        if (name == NULL) {
            return wrong(source, member, "list of tensors with names");
        }
        names->names[names->count++] = name;
    }
    return true;
}

static bool read_signature(const Source *source, const Json *signature, Bundle *bundle) {
    return read_names(source, json_member(signature, "inputs"), "signature.inputs", &bundle->inputs) &&
           read_names(source, json_member(signature, "outputs"), "signature.outputs", &bundle->outputs);
}

/* Read {tensor name: file}, and return the paths in the order of the names. */
static const char **read_files(const Source *source, const Json *files, const char *member, const Names *names,
                               const char *folder) {
    if (files == NULL || files->kind != JSON_OBJECT || files->count != names->count) {
        wrong(source, member, "object with one file for each tensor of the signature");
        return NULL;
    }
    const char **paths = arena_take(source->arena, names->count, sizeof *paths);
    if (paths == NULL) {
        fail_of_memory(source->failure);
        return NULL;
    }
    for (size_t index = 0; index < names->count; index++) {
        const char *file = json_string(json_member(files, names->names[index]));
        if (file == NULL) {
            fail(source->failure, "%s: '%s' names no file for the tensor '%s'", source->name, member,
                 names->names[index]);
            return NULL;
        }
        paths[index] = path_in(source, folder, file);
        if (paths[index] == NULL) {
            return NULL;
        }
    }
    return paths;
}

/* Read what is run of a set, and is all that a request `measure` says. */
static bool read_timed_set(const Source *source, const Json *item, const Bundle *bundle, const char *folder,
                           SampleSet *set) {
    if (!json_integer(json_member(item, "batch"), 1, INT64_MAX, &set->batch)) {
        return wrong(source, "sets[].batch", "whole number above 0");
    }
    set->inputs = read_files(source, json_member(item, "inputs"), "sets[].inputs", &bundle->inputs, folder);
    return set->inputs != NULL;
}

static bool read_set(const Source *source, const Json *item, const Bundle *bundle, const char *folder, SampleSet *set) {
    int64_t calls;
    if (!json_integer(json_member(item, "calls"), 1, MOST_CALLS, &calls)) {
        return wrong(source, "sets[].calls", "whole number above 0");
    }
    set->calls = (size_t)calls;
    if (!read_timed_set(source, item, bundle, folder, set)) {
        return false;
    }
    if (json_member(item, "outputs") == NULL) {
        return true;
    }
    set->outputs = read_files(source, json_member(item, "outputs"), "sets[].outputs", &bundle->outputs, folder);
    return set->outputs != NULL;
}

typedef bool ReadSet(const Source *source, const Json *item, const Bundle *bundle, const char *folder, SampleSet *set);

static bool read_sets(const Source *source, const Json *sets, const char *folder, ReadSet *read, Bundle *bundle) {
    if (sets == NULL || sets->kind != JSON_ARRAY || sets->count == 0) {
        return wrong(source, "sets", "list of at least one sample set");
    }
    bundle->sets = arena_take(source->arena, sets->count, sizeof *bundle->sets);
    if (bundle->sets == NULL) {
        return fail_of_memory(source->failure);
    }
    for (const Json *item = sets->first; item != NULL; item = item->next) {
        if (!read(source, item, bundle, folder, &bundle->sets[bundle->set_count])) {
            return false;
        }
        bundle->set_count++;
    }
    return true;
}

/* Of a fixed batch, the sets of other batch sizes are there for conversions only (see bundle.py, `tried`). */
static bool keep_tried(const Source *source, const Json *manifest, Bundle *bundle) {
    const char *batch = json_string(json_member(manifest, "batch"));
    if (batch == NULL || (strcmp(batch, "static") != 0 && strcmp(batch, "dynamic") != 0)) {
        return wrong(source, "batch", "'static' or 'dynamic'");
    }
    size_t kept = 0;
    for (size_t index = 0; index < bundle->set_count; index++) {
        if (*batch == 'd' || bundle->sets[index].batch == bundle->sets[0].batch) {
            bundle->sets[kept++] = bundle->sets[index];
        }
    }
    bundle->set_count = kept;
    for (size_t index = 0; index < kept; index++) {
        if (bundle->sets[index].outputs == NULL) {
            return wrong(source, "sets[].outputs", "object with one file for each tensor of the signature");
        }
    }
    return bundle->outputs.count > 0 || wrong(source, "signature.outputs", "list of at least one tensor");
}

static bool read_identity(const Source *source, const Json *manifest, const char *folder, Bundle *bundle) {
    static const char *const MEMBERS[] = {"framework", "model", "path", "format", "entry"};
    const char *texts[5];
    int64_t version;
    if (!json_integer(json_member(manifest, "schema_version"), SCHEMA_VERSION, SCHEMA_VERSION, &version)) {
        return wrong(source, "schema_version", "version that this runner knows, which is 1");
    }
    for (size_t index = 0; index < 5; index++) {
        texts[index] = json_string(json_member(manifest, MEMBERS[index]));
        if (texts[index] == NULL) {
            return wrong(source, MEMBERS[index], "text");
        }
    }
    bundle->format = texts[3];
    bundle->id = arena_format(source->arena, "%s/%s/%s", texts[0], texts[1], texts[2]);
    const char *artifact = arena_format(source->arena, "%s/artifact", folder);
    if (bundle->id == NULL || artifact == NULL) {
        return fail_of_memory(source->failure);
    }
    bundle->entry = path_in(source, artifact, texts[4]);
    return bundle->entry != NULL;
}

bool bundle_of_folder(Arena *arena, const char *folder, Bundle *bundle, Failure *failure) {
    char *text;
    size_t length;
    Failure cause = {0};
    const char *name = arena_format(arena, "%s/manifest.json", folder);
    if (name == NULL) {
        return fail_of_memory(failure);
    }
    const Source source = {arena, name, failure};
    if (!system_read(arena, name, MANIFEST_BYTES, &text, &length, failure)) {
        return false;
    }
    const Json *manifest = json_read(arena, text, length, &cause);
    if (manifest == NULL) {
        return fail(failure, "%s: %s", name, cause.reason);
    }
    return read_identity(&source, manifest, folder, bundle) &&
           read_signature(&source, json_member(manifest, "signature"), bundle) &&
           read_sets(&source, json_member(manifest, "sets"), folder, read_set, bundle) &&
           keep_tried(&source, manifest, bundle);
}

/* Read which of the signature's inputs have null, the symbolic batch, for their leading axis. */
static bool read_symbolic(const Source *source, const Json *request, Bundle *bundle) {
    const Json *tensor = json_member(json_member(request, "signature"), "inputs")->first;
    bool *symbolic = arena_take(source->arena, bundle->inputs.count, sizeof *symbolic);
    if (symbolic == NULL) {
        return fail_of_memory(source->failure);
    }
    for (size_t index = 0; tensor != NULL; tensor = tensor->next, index++) {
        const Json *shape = json_member(tensor, "shape");
        if (shape == NULL || shape->kind != JSON_ARRAY) {
            return wrong(source, "signature.inputs", "list of tensors with shapes");
        }
        symbolic[index] = shape->first != NULL && shape->first->kind == JSON_NULL;
    }
    bundle->symbolic = symbolic;
    return true;
}

static bool read_request(const Source *source, const Json *request, ReadSet *read, Bundle *bundle) {
    const char *folder = json_string(json_member(request, "bundle"));
    bundle->entry = json_string(json_member(request, "entry"));
    bundle->format = json_string(json_member(request, "format"));
    if (folder == NULL || bundle->entry == NULL || bundle->format == NULL) {
        return wrong(source, folder == NULL ? "bundle" : bundle->entry == NULL ? "entry" : "format", "text");
    }
    return read_signature(source, json_member(request, "signature"), bundle) &&
           read_sets(source, json_member(request, "sets"), folder, read, bundle);
}

bool bundle_of_request(Arena *arena, const Json *request, Bundle *bundle, Failure *failure) {
    const Source source = {arena, "the request", failure};
    return read_request(&source, request, read_set, bundle);
}

bool bundle_to_measure(Arena *arena, const Json *request, Bundle *bundle, Failure *failure) {
    const Source source = {arena, "the request", failure};
    return read_request(&source, request, read_timed_set, bundle) && read_symbolic(&source, request, bundle);
}
