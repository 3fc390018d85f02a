/* local/ for tests that start real pools: local_driver prints where the pool's socket is;
 * local_driver SOCKET [PROGRAM] makes sure that one answers there, and prints what came of it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "local/local.h"

int main(int argc, char **argv)
{
    if (argc < 2) {
        char *path = local_pool_socket();
        puts(path ? path : "?");
        free(path);
        return 0;
    }
    char *why = NULL;
    int err = local_pool_ensure(argv[1], argv[2], &why);
    printf("%s %s\n", err ? strerrorname_np(-err) : "0", why ? why : "");
    free(why);
    return err != 0;
}
