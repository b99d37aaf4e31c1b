/* Loads the shared object named first, prints how that went and its program headers, and unloads it. PT_LOADs are left
   out: tune --merge joins them, and leaves PT_NULLs. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size;
    if (info->dlpi_name && strcmp(info->dlpi_name, data) == 0)
        for (int i = 0; i < info->dlpi_phnum; i++)
            if (info->dlpi_phdr[i].p_type != PT_LOAD && info->dlpi_phdr[i].p_type != PT_NULL)
                printf("%x %lx %lx %lx\n", info->dlpi_phdr[i].p_type, (long)info->dlpi_phdr[i].p_vaddr,
                       (long)info->dlpi_phdr[i].p_filesz, (long)info->dlpi_phdr[i].p_memsz);
    return 0;
}

int main(int argc, char **argv)
{
    void *object = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!object) {
        printf("%s\n", dlerror());
        return 1;
    }
    dl_iterate_phdr(visit, argv[1]);
    printf("closed %d\n", dlclose(object));
    fflush(stdout);
    return 0;
}
