/*
 * Preloaded into sanitized programs: plugins stay loaded to the end, so that the leak checker can
 * tell MPI's own leaks, which tests/lsan.supp names by module, from ours.
 */
int dlclose(void *module);

int dlclose(void *module)
{
	(void)module;
	return 0;
}
