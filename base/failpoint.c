/* failpoint.c - named places that tests make fail. One lock around a small table; free when nothing is armed.
 */
#include <cairn/base.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAILPOINTS_MAX 16
#define NAME_MAX_LEN 63

enum action { ACT_ERROR, ACT_KILL, ACT_SLEEP };
static struct {
    char name[NAME_MAX_LEN + 1];
    enum action action;
    unsigned ms;
    uint64_t nth, passes;
} table[FAILPOINTS_MAX];
static size_t n_table;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
atomic_bool cairn_failpoints_armed;

static enum cairn_err parse_one(char *item, struct cairn_why *why)
{
    char *eq = strchr(item, '=');
    if (!eq || eq == item || eq - item > NAME_MAX_LEN)
        return cairn_fail(why, CAIRN_EINVAL, "failpoint \"%s\": expected name=error|kill|sleep:MS[@N]", item);
    if (n_table == FAILPOINTS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %d failpoints", FAILPOINTS_MAX);
    *eq = '\0';
    char *action = eq + 1, *at = strchr(action, '@');
    uint64_t nth = 0;
    if (at) {
        *at = '\0';
        nth = strtoull(at + 1, NULL, 10);
    }
    memset(&table[n_table], 0, sizeof(table[0]));
    memcpy(table[n_table].name, item, (size_t)(eq - item) + 1);
    table[n_table].nth = nth;
    if (strcmp(action, "error") == 0) {
        table[n_table].action = ACT_ERROR;
    } else if (strcmp(action, "kill") == 0) {
        table[n_table].action = ACT_KILL;
    } else if (strncmp(action, "sleep:", 6) == 0) {
        table[n_table].action = ACT_SLEEP;
        table[n_table].ms = (unsigned)strtoul(action + 6, NULL, 10);
    } else {
        return cairn_fail(why, CAIRN_EINVAL, "failpoint action \"%s\": expected error, kill or sleep:MS",
                          action);
    }
    n_table++;
    return CAIRN_OK;
}

enum cairn_err cairn_failpoint_set(const char *spec, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    char *copy = cairn_strdup(spec ? spec : "");
    if (!copy)
        return cairn_fail(why, CAIRN_ENOMEM, "failpoints");
    pthread_mutex_lock(&lock);
    n_table = 0;
    char *save = NULL;
    for (char *item = strtok_r(copy, ",", &save); item && !err; item = strtok_r(NULL, ",", &save))
        err = parse_one(item, why);
    if (err)
        n_table = 0;
    atomic_store(&cairn_failpoints_armed, n_table > 0);
    pthread_mutex_unlock(&lock);
    cairn_free(copy);
    return err;
}

void cairn_failpoints_from_env(void)
{
    struct cairn_why why;
    const char *spec = getenv("CAIRN_FAILPOINTS");
    if (spec && cairn_failpoint_set(spec, &why))
        CAIRN_LOG(BASE, ERROR, "CAIRN_FAILPOINTS ignored reason=\"%s\"", why.text);
}

bool cairn_failpoint_hit(const char *name)
{
    bool fails = false;
    unsigned ms = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_table; i++) {
        if (strcmp(table[i].name, name) != 0)
            continue;
        table[i].passes++;
        if (table[i].nth && table[i].passes != table[i].nth)
            continue;
        if (table[i].action == ACT_KILL)
            (void)kill(getpid(), SIGKILL);
        if (table[i].action == ACT_SLEEP)
            ms = table[i].ms;
        fails = table[i].action == ACT_ERROR;
    }
    pthread_mutex_unlock(&lock);
    if (ms)
        (void)usleep(ms * 1000);
    return fails;
}
